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
// that need no other object. was is the loader before; nil: there is none.
func (l *loader) translate(was *loader) *policy.Config {
	cfg := &policy.Config{GatewaySelector: maps.Clone(l.selector), AllowedEndpoints: l.allowed}
	l.was = was
	for _, k := range l.kinds.all {
		if k.translate != nil {
			k.translate(l, cfg)
		}
	}
	return cfg
}
