// SPDX-License-Identifier: Apache-2.0

package load

import (
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/istio"
)

// object is a file of JSON, as the API server's objects are.
func object(kind, namespace, name, version, spec string) istio.File {
	group := map[string]string{"AuthorizationPolicy": "security.istio.io/v1", "HTTPRoute": "gateway.networking.k8s.io/v1"}[kind]
	if group == "" {
		group = "networking.istio.io/v1"
	}
	return istio.File{Name: "kubernetes:" + kind + "/" + namespace + "/" + name, Data: []byte(strings.NewReplacer("GROUP", group, "KIND", kind, "NAMESPACE", namespace, "NAME", name, "VERSION", version).
		Replace(`{"apiVersion":"GROUP","kind":"KIND","metadata":{"namespace":"NAMESPACE","name":"NAME"},`) + spec + "}")}
}

// TestStandIns: to leave out an object that takes something away opens nothing, in
// whatever part of it the error is; and what it says nothing of is as it was.
func TestStandIns(t *testing.T) {
	const host = "a.example.com"
	entryOf := func(ns, host string) istio.File {
		return object("ServiceEntry", ns, "e", "", `"spec":{"hosts":["`+host+`"],"ports":[{"number":80,"name":"http","protocol":"HTTP"}],"resolution":"DNS"}`)
	}
	for _, tt := range []struct {
		what   string
		bad    istio.File
		denies bool
		shut   bool // also for DNS
	}{
		{"a Sidecar's host", object("Sidecar", "default", "x", "", `"spec":{"egress":[{"hosts":["nothing"]}]}`), true, true},
		{"a Sidecar's selector", object("Sidecar", "default", "x", "", `"spec":{"workloadSelector":{"labels":7},"egress":[{"hosts":["~/*"]}]}`), true, true},
		{"a Sidecar's shape", object("Sidecar", "default", "x", "", `"spec":{"workloadSelector":7,"egress":[{"hosts":["~/*"]}]}`), true, true},
		{"a Sidecar of other workloads", object("Sidecar", "default", "x", "", `"spec":{"workloadSelector":{"labels":{"app":"y"}},"egress":[{"hosts":["nothing"]}]}`), true, false},
		{"an AuthorizationPolicy", object("AuthorizationPolicy", "default", "x", "", `"spec":{"action":"DENY","rules":[{"to":[]}],"targetRefs":[{"group":"networking.istio.io","kind":"ServiceEntry","name":"e"}]}`), true, true},
		{"an AuthorizationPolicy's targets", object("AuthorizationPolicy", "default", "x", "", `"spec":{"action":"DENY","rules":[{}],"targetRefs":7}`), true, false},
		{"an AuthorizationPolicy in AUDIT", object("AuthorizationPolicy", "default", "x", "", `"spec":{"action":"AUDIT","rules":[{"to":[]}]}`), false, false},
		{"a VirtualService", object("VirtualService", "default", "x", "", `"spec":{"hosts":["`+host+`"],"http":[{"directResponse":{"status":600}}]}`), true, false},
		{"a VirtualService's hosts", object("VirtualService", "default", "x", "", `"spec":{"hosts":["*."],"http":[{"directResponse":{"status":403}}]}`), false, false},
		{"one of a VirtualService's hosts", object("VirtualService", "default", "x", "", `"spec":{"hosts":["*.","`+host+`"],"http":[{"directResponse":{"status":403}}]}`), true, false},
		{"an HTTPRoute", object("HTTPRoute", "default", "x", "", `"spec":{"parentRefs":[{"group":"networking.istio.io","kind":"ServiceEntry","name":"e"}],"rules":[{"filters":[{"type":"ExtensionRef","extensionRef":{"group":"x","kind":"Y","name":"z"}}]}]}`), true, false},
		{"a ServiceEntry", object("ServiceEntry", "default", "x", "", `"spec":{"hosts":["999"]}`), false, false},
	} {
		var r Refusals
		try := reading()
		good := []istio.File{entryOf("default", host), entryOf("other", "b.example.com")}
		if l, err := r.Load(nil, good, true, try); err != nil || !opens(l, host) {
			t.Fatalf("without it: %v", err)
		}
		l, err := r.Load(nil, slices.SortedFunc(slices.Values(append(good, tt.bad)), byName), true, try)
		if err != nil || len(l.Refused) != 1 {
			t.Errorf("%s: refused %v, %v", tt.what, l.Refused, err)
			continue
		}
		if got := l.Refused[0]; got.Denies != tt.denies || got.Older {
			t.Errorf("%s: denies %t, want %t: %+v", tt.what, got.Denies, tt.denies, got)
		}
		if opens(l, host) == tt.shut {
			t.Errorf("%s: %s is open %t", tt.what, host, !tt.shut)
		}
		if len(l.Snapshot.Policies()) == 0 {
			t.Errorf("%s: no policies", tt.what)
		}
		for _, f := range r.good {
			if isStandIn(f) {
				t.Errorf("%s: what stands for it is taken for a good version", tt.what)
			}
		}
	}
}

// TestStandInMesh: what a MeshConfig that cannot be read could have hidden is hidden.
func TestStandInMesh(t *testing.T) {
	mesh := istio.File{Name: "kubernetes:ConfigMap/istio-system/istio", Data: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"istio-system","name":"istio"},"data":{"mesh":"rootNamespace: [1]"}}`)}
	mine, others := entry("mine", "mine.example.com"), object("ServiceEntry", "other", "theirs", "", `"spec":{"hosts":["theirs.example.com"],"ports":[{"number":80,"name":"http","protocol":"HTTP"}],"resolution":"DNS"}`)
	var r Refusals
	try := reading()
	for _, with := range []bool{false, true} {
		objects := []istio.File{mine, others}
		if with {
			objects = append([]istio.File{mesh}, objects...)
		}
		l, err := r.Load(nil, objects, true, try)
		if err != nil || !opens(l, "mine.example.com") || opens(l, "theirs.example.com") == with {
			t.Errorf("with a bad MeshConfig %t: refused %v, %v", with, l.Refused, err)
		}
		if with && (len(l.Refused) != 1 || !l.Refused[0].Denies) {
			t.Errorf("refused %v", l.Refused)
		}
	}
}
