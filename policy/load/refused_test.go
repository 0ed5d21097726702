// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"slices"
	"testing"

	"github.com/egressd/egressd/policy/istio"
)

// TestRefused: what compiling refuses is a finding with the file of the object,
// and without that file the rest is good.
func TestRefused(t *testing.T) {
	files := []istio.File{{Name: "good", Data: []byte(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: good}
spec: {hosts: [good.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: out}
spec:
  selector: {istio: egressgateway}
  servers: [{hosts: ["*"], port: {number: 443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}}]
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: default}
spec: {selector: {istio: egressgateway}, ports: [{port: 443, name: tls}]}
`)}, {Name: "circle", Data: []byte(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: circle}
spec:
  hosts: [good.example.com]
  gateways: [mesh, out]
  tls: [{match: [{sniHosts: [good.example.com]}], route: [{destination: {host: out.default.svc.cluster.local, port: {number: 443}}}]}]
`)}}
	l, err := With(files, istio.Options{})
	if !errors.Is(err, ErrPolicy) {
		t.Fatalf("accepted: %v", l.Findings)
	}
	i := slices.IndexFunc(l.Findings, func(f istio.Finding) bool { return f.Severity == istio.Error })
	if i < 0 || l.Findings[i].File != "circle" || l.Findings[i].Line == 0 || l.Findings[i].Code != istio.CodeRefused || l.Findings[i].Object != "VirtualService default/circle" {
		t.Fatalf("%v: %+v", err, l.Findings)
	}
	if l, err = With(files[:1], istio.Options{}); err != nil {
		t.Fatalf("without it: %v %v", err, l.Findings)
	}
}
