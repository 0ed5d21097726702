// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"math"
	"net/netip"
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
	"github.com/egressd/egressd/policy/istio/internal/traffic"
)

func translateDestinationRules(l *loader, cfg *policy.Config) {
	for _, d := range oldest(l.rules) {
		cfg.DestinationRules = append(cfg.DestinationRules, once(l, d.object, nil, func() *policy.DestinationRule { return l.destinationRule(d) }))
	}
}

func (l *loader) destinationRule(d decoded[networking.DestinationRule]) *policy.DestinationRule {
	out := &policy.DestinationRule{Ref: d.ref}
	if a, err := netip.ParseAddr(d.v.Host); err == nil {
		d.Errorf(d.spec("host"), "invalid host: %s is an address; name a host of a ServiceEntry", a)
	} else if h, err := check.Domain(d.v.Host); err != nil {
		d.Errorf(d.spec("host"), "invalid host: %s", err)
	} else {
		out.Host = hostname.Pattern(l.absolute(string(h), d.ref.Namespace))
	}
	out.Export = d.exportTo(d.spec("exportTo"), d.v.ExportTo, false)
	if s := d.v.WorkloadSelector; s != nil {
		out.Selector = s.MatchLabels
		d.Selector(d.spec("workloadSelector"), s.MatchLabels, "workload selector specified without labels")
		d.selectedExport(out.Export)
	}
	out.Traffic = l.trafficPolicy(d.object, d.spec("trafficPolicy"), d.v.TrafficPolicy)
	if len(d.v.ExportTo) == 0 && l.exports[2] != nil {
		out.Export = l.exports[2].of(d.ref.Namespace)
	}
	names := map[string]bool{}
	for i, s := range d.v.Subsets {
		at := d.spec("subsets", i)
		switch {
		case s.Name == "":
			d.Errorf(at.At("name"), "subset name cannot be empty")
		case !check.IsPortName(s.Name):
			d.Errorf(at.At("name"), "subset name is invalid: %s", s.Name)
		case names[s.Name]:
			d.Errorf(at.At("name"), "duplicate subset names: %s", s.Name)
		}
		names[s.Name] = true
		d.Labels(at.At("labels"), s.Labels)
		out.Subsets = append(out.Subsets, policy.Subset{
			Name: s.Name, Labels: s.Labels, Traffic: l.trafficPolicy(d.object, at.At("trafficPolicy"), s.TrafficPolicy),
		})
	}
	return out
}

// selectedExport checks that a rule for some workloads is not for those of
// other namespaces.
func (o *object) selectedExport(export policy.Visibility) {
	at := o.spec("exportTo")
	switch {
	case at == o.spec(): // it has none
	case !slices.Contains(export.Namespaces, o.meta.Namespace):
		o.Errorf(at, "destination rule with workload selector cannot have exportTo beyond current namespace")
	case len(export.Namespaces) > 1:
		o.Errorf(at, "destination rule with workload selector cannot have multiple entries in exportTo")
	}
}

// trafficPolicy reads a TrafficPolicy; nil stays nil.
func (l *loader) trafficPolicy(o *object, at *strictyaml.Node, t *networking.TrafficPolicy) *policy.TrafficPolicy {
	if t == nil {
		return nil
	}
	if t.OutlierDetection == nil && t.ConnectionPool == nil && t.LoadBalancer == nil && t.Tls == nil &&
		len(t.PortLevelSettings) == 0 && t.Tunnel == nil && t.ProxyProtocol == nil && t.RetryBudget == nil {
		o.Errorf(at, "traffic policy must have at least one field")
	}
	if t.Tunnel != nil && t.ProxyProtocol != nil {
		o.Errorf(at.KeyOf("proxyProtocol"), "tunnel and proxyProtocol must not be set together")
	}
	out := &policy.TrafficPolicy{
		LoadBalancer: traffic.LoadBalancer(&o.Checker, at, t.LoadBalancer, t.OutlierDetection != nil),
		Pool:         traffic.ConnectionPool(&o.Checker, at, t.ConnectionPool),
		Outlier:      traffic.OutlierDetection(&o.Checker, at, t.OutlierDetection),
		TLS:          l.clientTLS(o, at.At("tls"), t.Tls),
		Tunnel:       o.tunnel(at, t.Tunnel),
	}
	if p := t.ProxyProtocol; p != nil {
		out.ProxyProtocol = int(p.Version) + 1
	}
	out.RetryBudget = o.retryBudget(at.At("retryBudget"), t.RetryBudget)
	for i, p := range t.PortLevelSettings {
		l.portTraffic(o, at.At("portLevelSettings", i), p, out)
	}
	return out
}

// portTraffic reads the settings of a port into t.
func (l *loader) portTraffic(o *object, at *strictyaml.Node, p *networking.TrafficPolicy_PortTrafficPolicy, t *policy.TrafficPolicy) {
	if p.OutlierDetection == nil && p.ConnectionPool == nil && p.LoadBalancer == nil && p.Tls == nil {
		o.Errorf(at, "port traffic policy must have at least one field")
	}
	out := &policy.TrafficPolicy{
		LoadBalancer: traffic.LoadBalancer(&o.Checker, at, p.LoadBalancer, p.OutlierDetection != nil),
		Pool:         traffic.ConnectionPool(&o.Checker, at, p.ConnectionPool),
		Outlier:      traffic.OutlierDetection(&o.Checker, at, p.OutlierDetection),
		TLS:          l.clientTLS(o, at.At("tls"), p.Tls),
	}
	if p.Port == nil {
		o.Errorf(at, "portTrafficPolicy must have valid port")
		return
	}
	pn := at.At("port", "number")
	number := o.Port(pn, "portLevelSettings", p.Port.Number)
	if t.Ports[number] != nil {
		o.Warnf(pn, "portLevelSettings: port %d is listed twice; the first applies", number)
		return
	}
	if t.Ports == nil {
		t.Ports = map[uint16]*policy.TrafficPolicy{}
	}
	t.Ports[number] = out
}

func (o *object) tunnel(at *strictyaml.Node, t *networking.TrafficPolicy_TunnelSettings) *policy.Tunnel {
	if t == nil {
		return nil
	}
	at = at.At("tunnel")
	if t.Protocol == "POST" {
		o.Denied(at.At("protocol"), "tunnel protocol POST")
	}
	out := &policy.Tunnel{Protocol: t.Protocol, TargetHost: t.TargetHost}
	switch t.Protocol {
	case "":
		out.Protocol = "CONNECT"
	case "CONNECT", "POST":
	default:
		o.Errorf(at.At("protocol"), `tunnel protocol must be "CONNECT" or "POST"`)
	}
	if a, err := netip.ParseAddr(t.TargetHost); err == nil {
		out.TargetHost = a.String()
	} else if h, err := check.FQDN(t.TargetHost); err == nil {
		out.TargetHost = h
	} else {
		o.Errorf(at.At("targetHost"), "tunnel target host must be valid FQDN or IP address: %s", err)
	}
	out.TargetPort = o.Port(at.At("targetPort"), "tunnel target port is invalid", t.TargetPort)
	return out
}

// What a retry budget says when it does not (istio applyRetryBudget).
const (
	budgetPercent     = 20
	budgetConcurrency = 3
)

// retryBudget reads a RetryBudget; nil stays nil.
func (o *object) retryBudget(at *strictyaml.Node, b *networking.TrafficPolicy_RetryBudget) *policy.RetryBudget {
	if b == nil {
		return nil
	}
	out := &policy.RetryBudget{Percent: budgetPercent, MinConcurrency: budgetConcurrency}
	if p := b.Percent; p != nil {
		out.Percent = p.Value
		if p.Value < 0 || p.Value > 100 {
			o.Errorf(at.At("percent"), "percentage %v is not in range 0..100", p.Value)
		}
	}
	if b.MinRetryConcurrency > 0 {
		out.MinConcurrency = int(min(b.MinRetryConcurrency, math.MaxInt32))
	}
	if b.BudgetInterval != nil {
		o.Inert(at.KeyOf("budgetInterval"), "budgetInterval of a retryBudget")
	}
	return out
}
