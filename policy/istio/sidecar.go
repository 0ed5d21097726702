// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
	"github.com/egressd/egressd/policy/istio/internal/traffic"
)

// nowhere hides everything: everything is taken out again.
var nowhere = policy.SidecarHost{Namespace: "*", Host: "*", Not: true}

func translateSidecars(l *loader, cfg *policy.Config) {
	for _, d := range oldest(l.sidecars) {
		cfg.Sidecars = append(cfg.Sidecars, once(l, d.object, nil, func() *policy.Sidecar { return l.sidecar(d) }))
	}
}

// sidecar translates a Sidecar. What it says of the way in has no effect.
func (l *loader) sidecar(d decoded[networking.Sidecar]) *policy.Sidecar {
	out := &policy.Sidecar{Ref: d.ref}
	if s := d.v.WorkloadSelector; s != nil {
		d.Selector(d.spec("workloadSelector", "labels"), s.Labels, "sidecar: "+check.NoLabels+", will be applied to all services in namespace")
		if len(s.Labels) > 0 {
			out.Selector = s.Labels
		}
	}
	if len(d.v.Egress) == 0 && len(d.v.Ingress) == 0 && d.v.OutboundTrafficPolicy == nil && d.v.InboundConnectionPool == nil {
		d.Errorf(d.spec(), "sidecar: empty configuration provided")
		return out
	}
	l.sidecarIngress(d.object, d.spec("ingress"), d.v.Ingress)
	if d.v.InboundConnectionPool != nil {
		traffic.Pool(&d.Checker, d.spec("inboundConnectionPool"), d.v.InboundConnectionPool)
		d.Warnf(d.spec().KeyOf("inboundConnectionPool"), "inboundConnectionPool is not acted on: egressd has no part in the way in to a workload")
	}
	d.sidecarEgress(out, d.v.Egress)
	d.sidecarOutbound(out, d.v.OutboundTrafficPolicy)
	return out
}

func (o *object) sidecarEgress(out *policy.Sidecar, listeners []*networking.IstioEgressListener) {
	ports, sockets := map[uint32]bool{}, map[string]bool{}
	socket := false
	for i, e := range listeners {
		at := o.spec("egress", i)
		listener := policy.SidecarEgress{Ref: o.ref, Hosts: o.sidecarHosts(at.At("hosts"), e.Hosts)}
		listener.Ref.Line, listener.Ref.Column = at.Line, at.Col
		switch p := e.Port; {
		case p == nil:
			if i < len(listeners)-1 {
				o.Errorf(at, "sidecar: the egress listener with empty port should be the last listener in the list")
			}
			if e.Bind != "" {
				o.Warnf(at.At("bind"), "bind without a port has no effect")
			}
		case p.Number == 0:
			o.sidecarPort(at.At("port"), p)
			o.sidecarSocket(at, e, sockets)
			socket = true
			continue
		default:
			o.sidecarPort(at.At("port"), p)
			listener.Port = o.Port(at.At("port", "number"), "number", p.Number)
			if ports[p.Number] {
				o.Errorf(at.At("port"), "sidecar: ports on IP bound listeners must be unique")
			}
			ports[p.Number] = true
			o.sidecarBind(at, e.Bind)
		}
		if e.CaptureMode == networking.CaptureMode_NONE && e.Port != nil {
			o.Warnf(at.At("captureMode"), "captureMode NONE is not acted on: connections are captured whatever it says, and nothing listens for the workload")
		}
		out.Egress = append(out.Egress, listener)
	}
	if socket && len(out.Egress) == 0 {
		// No listener at all would make everything visible.
		out.Egress = []policy.SidecarEgress{{Ref: o.ref, Hosts: []policy.SidecarHost{nowhere}}}
	}
}

func (o *object) sidecarPort(at *strictyaml.Node, p *networking.SidecarPort) {
	//lint:ignore SA1019 deprecated, and refused
	if p.TargetPort != 0 {
		o.Errorf(at.At("targetPort"), "targetPort has no impact on Sidecars")
	}
	if p.Name != "" && !check.IsPortName(p.Name) {
		o.Errorf(at.At("name"), "invalid port name: %s", p.Name)
	}
	if _, ok := check.ProtocolOf(p.Protocol); !ok {
		o.Errorf(at.At("protocol"), "unsupported protocol: %s", p.Protocol)
	}
}

func (o *object) sidecarBind(at *strictyaml.Node, bind string) {
	if bind == "" {
		return
	}
	if _, err := netip.ParseAddr(bind); err != nil {
		o.Errorf(at.At("bind"), "%s is not a valid IP", bind)
		return
	}
	o.Warnf(at.At("bind"), "bind is not acted on: nothing listens for the workload; the hosts and the port count")
}

// sidecarSocket checks a listener on a unix socket.
func (o *object) sidecarSocket(at *strictyaml.Node, e *networking.IstioEgressListener, seen map[string]bool) {
	path, ok := strings.CutPrefix(e.Bind, model.UnixPrefix)
	if !ok {
		o.Errorf(at.At("bind"), "sidecar: ports with 0 value must have a unix domain socket bind address")
		return
	}
	if wrong := unixAddress(path); wrong != "" {
		o.SayCode(code.FormSidecar, strictyaml.Error, at.At("bind"), "%s", wrong)
	}
	if e.CaptureMode == networking.CaptureMode_IPTABLES {
		o.Errorf(at.At("captureMode"), "sidecar: captureMode must be DEFAULT/NONE for unix domain socket listeners")
	}
	if seen[e.Bind] {
		o.Errorf(at.At("bind"), "sidecar: unix domain socket values for listeners must be unique")
	}
	seen[e.Bind] = true
	o.Warnf(at.At("bind"), "a unix socket to listen on is not acted on yet: nothing listens there, and the listener opens nothing")
}

// sidecarHosts reads the hosts of a listener: "namespace/name", and
// "~namespace/name" for what is taken out again.
func (o *object) sidecarHosts(at *strictyaml.Node, hosts []string) []policy.SidecarHost {
	if len(hosts) == 0 {
		o.Errorf(at, "sidecar: egress listener must contain at least one host")
	}
	var out []policy.SidecarHost
	seen := map[string]map[string]bool{} // names by namespace
	all := false
	for i, s := range hosts {
		h, err := o.sidecarHost(s)
		if err != nil {
			o.Errorf(at.At(i), "%s: %q", err, s)
			continue
		}
		out = append(out, h)
		if h.Not {
			continue
		}
		all = all || h.Namespace == "*" && h.Host == "*"
		ns := h.Namespace
		if ns == "." {
			ns = o.meta.Namespace
		}
		names := seen[ns]
		if names == nil {
			names = map[string]bool{}
			seen[ns] = names
		}
		if names[string(h.Host)] || names["*"] || h.Host == "*" && len(names) > 0 {
			o.Warnf(at.At(i), "duplicated egress host: %s", s)
		}
		names[string(h.Host)] = true
	}
	if all && len(seen) > 1 {
		o.Warnf(at, "`*/*` host select all resources, no other hosts can be added")
	}
	return out
}

func (o *object) sidecarHost(s string) (policy.SidecarHost, error) {
	var out policy.SidecarHost
	ns, name, found := strings.Cut(s, "/")
	if !found {
		return out, fmt.Errorf("host must be of form namespace/dnsName")
	}
	if ns == "" || name == "" {
		return out, fmt.Errorf("config namespace and dnsName in host entry cannot be empty")
	}
	if rest, not := strings.CutPrefix(ns, "~"); not {
		// "~/name" takes the name out of all namespaces.
		out.Not = true
		if ns = rest; ns == "" {
			ns = "*"
		}
	}
	switch {
	case ns != "." && ns != "*" && !check.IsLabel(ns):
		return out, fmt.Errorf("invalid namespace value %q in sidecar", ns)
	}
	if name != "*" && !strings.Contains(name, ".") {
		return out, fmt.Errorf("short names (non FQDN) are not allowed")
	}
	h, err := check.Domain(name)
	if err != nil {
		return out, err
	}
	if check.IsPartialWildcard(h) {
		return out, fmt.Errorf("partial wildcard %q not allowed", name)
	}
	out.Namespace, out.Host = ns, hostname.Pattern(h)
	return out, nil
}

func (o *object) sidecarOutbound(out *policy.Sidecar, p *networking.OutboundTrafficPolicy) {
	if p == nil {
		return
	}
	at := o.spec("outboundTrafficPolicy")
	mode := policy.RegistryOnly
	if p.Mode == networking.OutboundTrafficPolicy_ALLOW_ANY {
		mode = policy.AllowAny
		o.Warnf(at.At("mode"), "outboundTrafficPolicy ALLOW_ANY opens every destination to these workloads")
	}
	out.Outbound = &mode
	if p.EgressProxy == nil {
		return
	}
	at = at.At("egressProxy")
	if mode != policy.AllowAny {
		o.Errorf(at, "sidecar: egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode")
		return
	}
	if _, err := check.FQDN(p.EgressProxy.Host); err != nil {
		o.Errorf(at.At("host"), "invalid host: %s", err)
	}
	if p.EgressProxy.Port == nil {
		o.Errorf(at, "sidecar: egress_proxy port must be non-nil")
	}
	o.Unsupported(at, "egressProxy")
}
