// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

func (l *loader) destinationRule(d decoded[networking.DestinationRule]) *policy.DestinationRule {
	out := &policy.DestinationRule{Ref: d.ref}
	if a, err := netip.ParseAddr(d.v.Host); err == nil {
		d.errorf(d.spec("host"), "invalid host: %s is an address; name a host of a ServiceEntry", a)
	} else if h, err := domain(d.v.Host); err != nil {
		d.errorf(d.spec("host"), "invalid host: %s", err)
	} else {
		out.Host = hostname.Pattern(l.absolute(string(h), d.ref.Namespace))
	}
	out.Export = d.exportTo(d.spec("exportTo"), d.v.ExportTo, false)
	if s := d.v.WorkloadSelector; s != nil {
		out.Selector = s.MatchLabels
		d.selector(d.spec("workloadSelector"), s.MatchLabels, "workload selector specified without labels")
		d.selectedExport(out.Export)
	}
	out.Traffic = l.trafficPolicy(d.object, d.spec("trafficPolicy"), d.v.TrafficPolicy)
	names := map[string]bool{}
	for i, s := range d.v.Subsets {
		at := d.spec("subsets", i)
		switch {
		case s.Name == "":
			d.errorf(at.at("name"), "subset name cannot be empty")
		case !isPortName(s.Name):
			d.errorf(at.at("name"), "subset name is invalid: %s", s.Name)
		case names[s.Name]:
			d.errorf(at.at("name"), "duplicate subset names: %s", s.Name)
		}
		names[s.Name] = true
		d.labels(at.at("labels"), s.Labels)
		out.Subsets = append(out.Subsets, policy.Subset{
			Name: s.Name, Labels: s.Labels, Traffic: l.trafficPolicy(d.object, at.at("trafficPolicy"), s.TrafficPolicy),
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
		o.errorf(at, "destination rule with workload selector cannot have exportTo beyond current namespace")
	case len(export.Namespaces) > 1:
		o.errorf(at, "destination rule with workload selector cannot have multiple entries in exportTo")
	}
}

// trafficPolicy reads a TrafficPolicy; nil stays nil.
func (l *loader) trafficPolicy(o *object, at *node, t *networking.TrafficPolicy) *policy.TrafficPolicy {
	if t == nil {
		return nil
	}
	if t.OutlierDetection == nil && t.ConnectionPool == nil && t.LoadBalancer == nil && t.Tls == nil &&
		len(t.PortLevelSettings) == 0 && t.Tunnel == nil && t.ProxyProtocol == nil && t.RetryBudget == nil {
		o.errorf(at, "traffic policy must have at least one field")
	}
	if t.Tunnel != nil && t.ProxyProtocol != nil {
		o.errorf(at.keyOf("proxyProtocol"), "tunnel and proxyProtocol must not be set together")
	}
	out := &policy.TrafficPolicy{
		LoadBalancer: o.loadBalancer(at, t.LoadBalancer, t.OutlierDetection != nil),
		Pool:         o.connectionPool(at, t.ConnectionPool),
		Outlier:      o.outlierDetection(at, t.OutlierDetection),
		TLS:          l.clientTLS(o, at.at("tls"), t.Tls),
		Tunnel:       o.tunnel(at, t.Tunnel),
	}
	if p := t.ProxyProtocol; p != nil {
		out.ProxyProtocol = int(p.Version) + 1
		o.denied(at.keyOf("proxyProtocol"), "proxyProtocol")
	}
	if t.RetryBudget != nil {
		if p := t.RetryBudget.Percent; p != nil && (p.Value < 0 || p.Value > 100) {
			o.errorf(at.at("retryBudget", "percent"), "percentage %v is not in range 0..100", p.Value)
		}
		o.inert(at.keyOf("retryBudget"), "retryBudget")
	}
	for i, p := range t.PortLevelSettings {
		l.portTraffic(o, at.at("portLevelSettings", i), p, out)
	}
	return out
}

// portTraffic reads the settings of a port into t.
func (l *loader) portTraffic(o *object, at *node, p *networking.TrafficPolicy_PortTrafficPolicy, t *policy.TrafficPolicy) {
	if p.OutlierDetection == nil && p.ConnectionPool == nil && p.LoadBalancer == nil && p.Tls == nil {
		o.errorf(at, "port traffic policy must have at least one field")
	}
	out := &policy.TrafficPolicy{
		LoadBalancer: o.loadBalancer(at, p.LoadBalancer, p.OutlierDetection != nil),
		Pool:         o.connectionPool(at, p.ConnectionPool),
		Outlier:      o.outlierDetection(at, p.OutlierDetection),
		TLS:          l.clientTLS(o, at.at("tls"), p.Tls),
	}
	if p.Port == nil {
		o.errorf(at, "portTrafficPolicy must have valid port")
		return
	}
	pn := at.at("port", "number")
	number := o.port(pn, "portLevelSettings", p.Port.Number)
	if t.Ports[number] != nil {
		o.warnf(pn, "portLevelSettings: port %d is listed twice; the first applies", number)
		return
	}
	if t.Ports == nil {
		t.Ports = map[uint16]*policy.TrafficPolicy{}
	}
	t.Ports[number] = out
}

func (o *object) tunnel(at *node, t *networking.TrafficPolicy_TunnelSettings) *policy.Tunnel {
	if t == nil {
		return nil
	}
	o.denied(at.keyOf("tunnel"), "tunnel")
	at = at.at("tunnel")
	out := &policy.Tunnel{Protocol: t.Protocol, TargetHost: t.TargetHost}
	switch t.Protocol {
	case "":
		out.Protocol = "CONNECT"
	case "CONNECT", "POST":
	default:
		o.errorf(at.at("protocol"), `tunnel protocol must be "CONNECT" or "POST"`)
	}
	if a, err := netip.ParseAddr(t.TargetHost); err == nil {
		out.TargetHost = a.String()
	} else if h, err := fqdn(t.TargetHost); err == nil {
		out.TargetHost = h
	} else {
		o.errorf(at.at("targetHost"), "tunnel target host must be valid FQDN or IP address: %s", err)
	}
	out.TargetPort = o.port(at.at("targetPort"), "tunnel target port is invalid", t.TargetPort)
	return out
}
