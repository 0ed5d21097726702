// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"net/netip"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// consents finds what leads to the node or its neighbourhood without the
// consent of the node's operator, and says how that is given.
func (a *analysis) consents() {
	consent := policy.NewConsent(a.cfg.AllowedEndpoints)
	for _, s := range a.cfg.Services {
		for i, p := range s.Addresses {
			a.consentAddress(consent, s, i, p)
		}
		for i := range s.Endpoints {
			if place := refusedPlace(consent, s, &s.Endpoints[i]); place != "" {
				at := a.part(s.Ref)
				at.Warnf(at.endpoint(&s.Endpoints[i]), "endpoint %s is on the node, or for the node alone: "+
					"nothing is let there (endpoint-not-allowed) unless the node is started with --allow-endpoint %s", place, place)
			}
		}
	}
}

// refusedPlace is where an endpoint may not be dialled, as --allow-endpoint
// takes it; "" when it may be on every port.
func refusedPlace(consent policy.Consent, s *policy.Service, e *policy.Endpoint) string {
	if e.Unix != "" {
		if consent.Socket(e.Unix) {
			return ""
		}
		return policy.AllowedEndpoint{Unix: e.Unix}.String()
	}
	addr := e.Addr
	if !addr.IsValid() {
		var err error
		if addr, err = netip.ParseAddr(e.Host); err != nil {
			return ""
		}
	}
	refused := map[uint16]bool{}
	for _, p := range s.Ports {
		if n := cmp.Or(e.Ports[p.Name], p.TargetPort, p.Number); !consent.Address(addr, n) {
			refused[n] = true
		}
	}
	out := policy.AllowedEndpoint{Prefix: netip.PrefixFrom(addr, addr.BitLen())}
	switch len(refused) {
	case 0:
		return ""
	case 1:
		for out.Port = range refused {
		}
	}
	return out.String()
}

// endpoint is where an endpoint is written: among those of the object, or
// where the object says which it selects.
func (s part) endpoint(e *policy.Endpoint) *strictyaml.Node {
	text := e.Host
	switch {
	case e.Unix != "":
		text = model.UnixPrefix + e.Unix
	case e.Addr.IsValid():
		text = e.Addr.String()
	}
	if s.object == nil {
		return s.n
	}
	for _, n := range s.object.Get("endpoints").List() {
		address := n.At("address")
		if a, err := netip.ParseAddr(address.Text); address.Text == text || err == nil && a.String() == text {
			return address
		}
	}
	if s.object.Get("workloadSelector") != nil {
		return s.object.KeyOf("workloadSelector")
	}
	return s.n
}

func (a *analysis) consentAddress(consent policy.Consent, s *policy.Service, i int, p netip.Prefix) {
	for _, port := range s.Ports {
		open, refused := consent.Divide(p, port.Number)
		if len(refused) == 0 {
			continue
		}
		at := a.part(s.Ref)
		n := at.spec("addresses", i)
		if len(open) > 0 {
			at.Say(strictyaml.Note, n, "addresses %s: the node-local addresses in it (loopback, link-local, metadata services) stay closed unless --allow-endpoint names them", plainAddress(p))
			return
		}
		at.Warnf(n, "address %s is on the node, or for the node alone: "+
			"nothing is let there (endpoint-not-allowed) unless the node is started with --allow-endpoint %s", plainAddress(p), plainAddress(p))
		return
	}
}
