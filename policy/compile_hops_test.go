// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// TestEgressGatewayNames: what stands for an egress gateway and what does not.
func TestEgressGatewayNames(t *testing.T) {
	const egress = "istio-egressgateway.istio-system.svc.cluster.local"
	cnn := []hostname.Pattern{"edition.cnn.com"}
	v := &VirtualService{
		Ref: Ref{Kind: "VirtualService", Namespace: "default", Name: "via"}, Gateways: []string{"default/egress", "mesh"}, Hosts: cnn,
	}
	ref := Ref{Kind: "Gateway", Namespace: "default", Name: "egress"}
	b := newBuilder(&Config{
		Services: []*Service{{
			Ref: Ref{Kind: "ServiceEntry", Namespace: "default", Name: "cnn"}, External: true, Hosts: cnn,
			Ports: []Port{{Number: 80, Protocol: ProtocolHTTP}}, Resolution: ResolutionDNS,
		}},
		Gateways: []*Gateway{{Ref: ref, Selector: map[string]string{"istio": "egressgateway"}, Servers: []GatewayServer{{
			Ref: ref, Name: "s", Port: 80, Protocol: ProtocolHTTP, Hosts: cnn, HostNamespaces: []string{"*"},
		}}}},
		VirtualServices: []*VirtualService{v},
	}, &Snapshot{})
	b.index.update(b.old, b.removed, b.added)
	for host, want := range map[string]bool{
		egress: true, "istio-egressgateway": true, "istio-egressgateway.istio-system": true, "gw.default": true,
		"gw.any.svc": true, "gw.any.svc.example.org": true,
		"edition.cnn.com": false, "www.cnn.com": false, "cnn.com": false, "a.b.c": false,
	} {
		if got := b.gatewayPortOf(v, Destination{Host: host, Port: 80}, 0) != nil; got != want {
			t.Errorf("%s stands for a gateway: %t", host, got)
		}
	}
	b.cfg.GatewaySelector = map[string]string{"istio": "egressgateway"}
	if b.gatewayPortOf(v, Destination{Host: egress, Port: 80}, 0) != nil {
		t.Error("a gateway that serves others is gone on as")
	}
	v.Gateways = []string{"mesh"}
	if b.cfg.GatewaySelector = nil; b.gatewayPortOf(v, Destination{Host: egress, Port: 80}, 0) != nil {
		t.Error("a rule that is bound to no gateway goes on as one")
	}
}
