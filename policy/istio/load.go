// SPDX-License-Identifier: Apache-2.0

// Package istio reads Istio and Kubernetes objects from YAML and translates
// them into the policy package's Config.
//
// Nothing is dropped in silence: what is wrong is an error, what restricts or
// redirects traffic and is not implemented is an error too, what only
// decorates is a warning, and what is none of our business is a note. All
// findings of all files come at once, each with its line and column.
package istio

import (
	"maps"
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
)

// Load translates files. The Config is nil when any finding is an Error.
// Findings are in reading order: by file as given, then by line.
//
// VirtualServices, DestinationRules and Gateways come oldest first: by creationTimestamp, then name and
// namespace; those without a timestamp follow in reading order.
func Load(files []File, o Options) (*policy.Config, []Finding) {
	r := NewReader(o)
	cfg, findings := r.Load(files)
	if cfg == nil {
		return nil, findings
	}
	return cfg, r.l.r.Sorted(slices.Concat(findings, r.Analyze()))
}

// translate builds the Config from what was decoded, but for the ServiceEntries
// that need no other object.
func (l *loader) translate() *policy.Config {
	cfg := &policy.Config{GatewaySelector: maps.Clone(l.selector), AllowedEndpoints: l.allowed}
	for _, se := range l.entries {
		l.dependent = append(l.dependent, l.serviceEntry(se))
	}
	cfg.Services = l.kubernetesServices()
	slices.SortStableFunc(l.gateways, oldestFirst[networking.Gateway])
	for _, gw := range l.gateways {
		cfg.Gateways = append(cfg.Gateways, l.gateway(gw))
	}
	slices.SortStableFunc(l.rules, oldestFirst[networking.DestinationRule])
	for _, dr := range l.rules {
		cfg.DestinationRules = append(cfg.DestinationRules, l.destinationRule(dr))
	}
	slices.SortStableFunc(l.virtuals, oldestFirst[networking.VirtualService])
	l.readDelegates()
	for _, vs := range l.virtuals {
		cfg.VirtualServices = append(cfg.VirtualServices, l.virtualService(vs))
	}
	l.unusedDelegates()
	l.scope(cfg)
	return cfg
}
