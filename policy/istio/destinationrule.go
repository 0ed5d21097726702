// SPDX-License-Identifier: Apache-2.0

package istio

import (
	networking "istio.io/api/networking/v1alpha3"
)

// destinationRule reads a DestinationRule. Load balancing and connection
// pools only decorate; what changes where the bytes go, or in what form they
// leave the node (TLS origination, tunnels), must not be ignored.
func (l *loader) destinationRule(o *object) {
	v := &networking.DestinationRule{}
	if !decodeProto(o.spec(), v, "spec", &o.place) {
		return
	}
	if _, err := domain(v.Host); err != nil {
		o.errorf(o.spec("host"), "invalid host: %s", err)
	}
	o.trafficPolicy(o.spec("trafficPolicy"), v.TrafficPolicy)
	names := map[string]bool{}
	for i, s := range v.Subsets {
		at := o.spec("subsets", i)
		if !isPortName(s.Name) {
			o.errorf(at.at("name"), "subset name %q is not a DNS label", s.Name)
		}
		if names[s.Name] {
			o.errorf(at.at("name"), "subset %q is defined twice", s.Name)
		}
		names[s.Name] = true
		o.trafficPolicy(at.at("trafficPolicy"), s.TrafficPolicy)
	}
	if v.WorkloadSelector != nil {
		o.unsupported(o.spec("workloadSelector"), "workloadSelector")
	}
	l.later(func() { l.exportTo(o, o.spec("exportTo"), v.ExportTo) })
	o.inert(o.root.keyOf("kind"), "DestinationRule")
}

func (o *object) trafficPolicy(at *node, t *networking.TrafficPolicy) {
	if t == nil {
		return
	}
	o.clientTLS(at.at("tls"), t.Tls)
	if t.Tunnel != nil {
		o.unsupported(at.keyOf("tunnel"), "tunnel")
	}
	if t.ProxyProtocol != nil {
		o.unsupported(at.keyOf("proxyProtocol"), "proxyProtocol")
	}
	for i, p := range t.PortLevelSettings {
		pn := at.at("portLevelSettings", i)
		if p.Port == nil {
			o.errorf(pn, "portLevelSettings: port is required")
		}
		o.clientTLS(pn.at("tls"), p.Tls)
	}
}

func (o *object) clientTLS(at *node, t *networking.ClientTLSSettings) {
	if t != nil && t.Mode != networking.ClientTLSSettings_DISABLE {
		o.unsupported(at, "tls mode "+t.Mode.String())
	}
}
