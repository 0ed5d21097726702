// SPDX-License-Identifier: Apache-2.0

package policy

import "testing"

// TestUpdateOfTaken: who has a Kubernetes Service's name, at an address of
// several names and under the root namespace's Sidecar is the same whether the
// objects come one after the other or all at once.
func TestUpdateOfTaken(t *testing.T) {
	const host = "front.shop.svc.cluster.local"
	front := with(kube("front"), svcNamespace("shop"))
	front.Hosts = names(host)
	front.Ports = []Port{{Number: 80, Protocol: ProtocolHTTP}}
	claim := with(se("claim", ResolutionDNS, host), svcPort(80, ProtocolHTTP), svcNamespace("apparel"))
	wide := with(se("wide", ResolutionDNS, "*.cluster.local"), svcPort(80, ProtocolHTTP), svcEndpoint("w.example.net"), svcNamespace("third"))
	tcp := with(se("tcp", ResolutionDNS, "a.example.com"), svcPort(3306, ProtocolTCP), svcNamespace("apparel"))
	own := with(se("own", ResolutionDNS, "pay.example.com"), svcPort(80, ProtocolHTTP), svcPort(3306, ProtocolTCP), svcNamespace("shop"))
	rule := with(vs("ours", mesh, names("pay.example.com"), to("", host, 80)), vsNamespace("shop"))
	root := &Sidecar{Ref: Ref{Kind: "Sidecar", Namespace: "istio-system", Name: "default"},
		Egress: []SidecarEgress{{Hosts: []SidecarHost{{Namespace: ".", Host: "*"}, {Namespace: "apparel", Host: "a.example.com"}}}}}
	var was *Snapshot
	for step, c := range []struct {
		services []*Service
		sidecars []*Sidecar
	}{
		{[]*Service{own}, nil},
		{[]*Service{own, claim}, nil},
		{[]*Service{own, claim, front}, nil},
		{[]*Service{own, claim, wide, front}, nil},
		{[]*Service{own, claim, wide, front, tcp}, nil},
		{[]*Service{own, claim, wide, front, tcp}, []*Sidecar{root}},
		{[]*Service{own, wide, front, tcp}, []*Sidecar{root}},
		{[]*Service{own, wide, tcp}, []*Sidecar{root}},
		{[]*Service{own, front}, nil},
		{[]*Service{own}, nil},
	} {
		config := &Config{Services: c.services, Sidecars: c.sidecars, VirtualServices: []*VirtualService{rule}, Workloads: workloads("shop", "apparel", "third", "fourth")}
		fresh := mustCompile(t, config)
		if was == nil {
			was = fresh
			continue
		}
		now, err := was.Update(config)
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range now.Workloads() {
			x, y := now.Policy(w.Policy), fresh.Policy(fresh.Workloads()[i].Policy)
			if x.sum != y.sum {
				t.Errorf("step %d: namespace %s has by update\n%s\nand from nothing\n%s", step, w.Namespace, now.Text(), fresh.Text())
			}
		}
		was = now
	}
}
