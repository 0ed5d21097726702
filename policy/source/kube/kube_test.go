// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

const testPatience = 60 * time.Second

// run runs an Informer until the test ends, and returns it and how often it told of
// changes.
func run(t *testing.T, o Options) *Informer {
	t.Helper()
	o.Node = "node1"
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, func() { s.Files() }); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return s
}

// synced is an Informer that has read everything.
func synced(t *testing.T, o Options) *Informer {
	t.Helper()
	s := run(t, o)
	if err := s.Await(t.Context(), testPatience); err != nil {
		t.Fatal(err)
	}
	return s
}

// file is what an Informer has of an object.
func file(s *Informer, name string) (data string, ok bool) {
	for _, f := range s.Files() {
		if f.Name == name {
			return string(f.Data), true
		}
	}
	return "", false
}

// has waits until a file has a text in it; "": is not there.
func has(t *testing.T, s *Informer, name, text string) {
	t.Helper()
	testenv.Until(t, name+" has "+text, func() bool {
		data, ok := file(s, name)
		return ok == (text != "") && strings.Contains(data, text)
	})
}

// cluster is the shared API server, with all kinds.
func cluster(t *testing.T) *kubetest.Cluster {
	t.Helper()
	c := shared.Cluster(t)
	installed.Do(func() { c.InstallIstio(t); c.InstallGatewayAPI(t) })
	return c
}

var installed sync.Once

// kindObjects are objects of the kinds that are watched: {} is the namespace, and [] what
// is changed.
var kindObjects = map[string]string{
	"ServiceEntry": `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: {}}
spec: {hosts: ["[].example.com"], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}`,
	"VirtualService": `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: {}}
spec: {hosts: ["[].example.com"], http: [{route: [{destination: {host: a.example.com}}]}]}`,
	"Gateway": `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: x, namespace: {}}
spec: {selector: {istio: x}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["[].example.com"]}]}`,
	"DestinationRule": `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: {}}
spec: {host: "[].example.com"}`,
	"Sidecar": `apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: x, namespace: {}}
spec: {egress: [{hosts: ["./[].example.com"]}]}`,
	"WorkloadEntry": `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: x, namespace: {}}
spec: {address: 192.0.2.1, labels: {app: "[]"}}`,
	"AuthorizationPolicy": `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: {}}
spec: {selector: {matchLabels: {app: "[]"}}, action: DENY, rules: [{to: [{operation: {ports: ["1"]}}]}]}`,
	"HTTPRoute": `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: x, namespace: {}}
spec: {hostnames: ["[].example.com"], parentRefs: [{group: networking.istio.io, kind: ServiceEntry, name: x}], rules: [{backendRefs: [{name: b, port: 80}]}]}`,
	gatewayAPIKind: `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: x, namespace: {}}
spec: {gatewayClassName: "[]", listeners: [{name: http, port: 80, protocol: HTTP}]}`,
	"Service": `apiVersion: v1
kind: Service
metadata: {name: x, namespace: {}}
spec: {type: ExternalName, externalName: "[].example.com"}`,
	"EndpointSlice": `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: x, namespace: {}, labels: {kubernetes.io/service-name: x}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1], conditions: {ready: true}}, {addresses: [192.0.2.2], conditions: {ready: false}}]
ports: [{name: "[]", port: 80}]`,
}

// TestKinds: an object of each kind comes, changes, and goes.
func TestKinds(t *testing.T) {
	c := cluster(t)
	s := synced(t, Options{Config: c.Config()})
	ns := c.Namespace(t, nil)
	for kind, o := range kindObjects {
		yaml := strings.ReplaceAll(o, "{}", ns)
		name := "kubernetes:" + kind + "/" + ns + "/x"
		for _, version := range []string{"first", "second"} {
			c.Apply(t, strings.ReplaceAll(yaml, "[]", version))
			has(t, s, name, version)
			data, _ := file(s, name)
			for _, junk := range []string{"managedFields", "last-applied", "resourceVersion", `"uid"`, "192.0.2.2", "status"} {
				if strings.Contains(data, junk) {
					t.Errorf("%s has %s: %s", name, junk, data)
				}
			}
		}
		if _, err := c.TryKubectl(yaml, "delete", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		has(t, s, name, "")
	}
	if st := s.Status(); !st.Synced || st.LastEvent.IsZero() || st.Kinds[namespaceKind].Objects == 0 {
		t.Errorf("the status: %+v", st)
	}
}

// TestMeshConfig: the ConfigMap istio of the root namespace is read, and no other.
func TestMeshConfig(t *testing.T) {
	c := cluster(t)
	s := synced(t, Options{Config: c.Config()})
	c.Apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
	const text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: istio-system}, data: {mesh: 'trustDomain: %s', other: x}}"
	c.Apply(t, fmt.Sprintf(text, "other", "other.example"))
	c.Apply(t, fmt.Sprintf(text, "istio", "one.example"))
	has(t, s, "kubernetes:ConfigMap/istio-system/istio", "one.example")
	c.Apply(t, fmt.Sprintf(text, "istio", "two.example"))
	has(t, s, "kubernetes:ConfigMap/istio-system/istio", "two.example")
	if _, ok := file(s, "kubernetes:ConfigMap/istio-system/other"); ok {
		t.Error("another ConfigMap is read")
	}
	c.Kubectl(t, "delete", "configmap", "-n", "istio-system", "istio")
	has(t, s, "kubernetes:ConfigMap/istio-system/istio", "")
}

// TestPods: a pod of the node is a Workload, whose mode the labels say.
func TestPods(t *testing.T) {
	c := cluster(t)
	system := c.Namespace(t, nil)
	s := synced(t, Options{Config: c.Config(), Mode: policy.Off, SystemNamespaces: []string{system}})
	ns := c.Namespace(t, nil)
	name := "kubernetes:Pod/" + ns + "/p"
	c.Pod(t, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: ns, Name: "elsewhere"}, Spec: core.PodSpec{NodeName: "node2"}})
	p := c.Pod(t, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: ns, Name: "p", Labels: map[string]string{"app": "shop"}}}, "10.244.1.5")
	has(t, s, name, `"cgroups":["kubepods/besteffort/pod`+string(p.UID)+`"`)
	data, _ := file(s, name)
	for _, want := range []string{`"labels":{"app":"shop"}`, `"serviceAccount":"default"`, `"mode":"off"`} {
		if !strings.Contains(data, want) {
			t.Errorf("%s is not in %s", want, data)
		}
	}
	label := func(what, object, value string) {
		t.Helper()
		c.Kubectl(t, "label", "--overwrite", "-n", ns, what, object, "egressd.dev/mode"+value)
	}
	label("ns", ns, "=audit")
	has(t, s, name, `"mode":"audit"`)
	label("pod", "p", "=enforce")
	has(t, s, name, `"mode":"enforce"`)
	label("pod", "p", "-")
	has(t, s, name, `"mode":"audit"`)
	label("ns", ns, "=enfroce")
	has(t, s, name, `"mode":"enforce"`)
	if text := s.Status().Problems["Pod "+ns+"/p"]; !strings.Contains(text, "enfroce") {
		t.Errorf("the status does not say that a label is wrong: %q", text)
	}
	label("ns", ns, "-")
	has(t, s, name, `"mode":"off"`)
	c.Kubectl(t, "patch", "pod", "-n", ns, "p", "--subresource=status", "-p", `{"status":{"phase":"Succeeded"}}`)
	has(t, s, name, "")
	if _, ok := file(s, "kubernetes:Pod/"+ns+"/elsewhere"); ok {
		t.Error("a pod of another node is read")
	}

	c.Pod(t, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: system, Name: "p"}})
	c.Pod(t, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: system, Name: "q", Labels: map[string]string{ModeLabel: "enforce"}}})
	has(t, s, "kubernetes:Pod/"+system+"/p", `"mode":"off"`)
	has(t, s, "kubernetes:Pod/"+system+"/q", `"mode":"enforce"`)
	c.DeletePod(t, system, "q")
	has(t, s, "kubernetes:Pod/"+system+"/q", "")
}

// TestSuccessor: a pod has one in a pod of the same controller that came later and is
// not being deleted.
func TestSuccessor(t *testing.T) {
	c := cluster(t)
	ns := c.Namespace(t, nil)
	s := synced(t, Options{Config: c.Config()})
	create := func(name, controller string) string {
		controls := true
		p := &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: ns, Name: name}}
		if controller != "" {
			p.OwnerReferences = []meta.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "egressd", UID: types.UID(controller), Controller: &controls}}
		}
		uid := string(c.Pod(t, p).UID)
		has(t, s, "kubernetes:Pod/"+ns+"/"+name, uid)
		return uid
	}
	set := "11111111-2222-4333-8444-555555555555"
	one := create("one", set)
	create("another-set", "66666666-2222-4333-8444-555555555555")
	alone, none := create("alone", ""), create("none", "")
	for _, uid := range []string{one, alone, none, "", "77777777-2222-4333-8444-555555555555"} {
		if s.Successor(uid) {
			t.Errorf("%q has a successor, and nothing was made for it", uid)
		}
	}
	begun := time.Now().Unix() // the API's times are whole seconds
	testenv.Until(t, "another second", func() bool { return time.Now().Unix() > begun })
	two := create("two", set)
	if !s.Successor(one) || s.Successor(two) {
		t.Errorf("the first has a successor %t, and the second %t", s.Successor(one), s.Successor(two))
	}
	// Without a kubelet it is there until somebody says that it has ended.
	c.Kubectl(t, "delete", "pod", "-n", ns, "two", "--wait=false", "--grace-period=3600")
	testenv.Until(t, "a successor that is deleted is none", func() bool { return !s.Successor(one) })
	c.DeletePod(t, ns, "two")
}

// TestStaticPods: a mirror has the UID of the static pod, and nobody gets the cgroup of
// another pod by writing that.
func TestStaticPods(t *testing.T) {
	const static = "0123456789abcdef0123456789abcdef"
	yes := true
	mirror := func(hash string, owner ...meta.OwnerReference) *core.Pod {
		p := &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "n", Name: "p", UID: "b0b0b0b0-0000-4000-8000-000000000000", OwnerReferences: owner,
			Annotations: map[string]string{core.MirrorPodAnnotationKey: hash, configHash: hash}}}
		p.Spec.NodeName, p.Status.QOSClass = "node1", core.PodQOSBurstable
		return p
	}
	node := meta.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "node1", Controller: &yes}
	plain := mirror(static, node)
	delete(plain.Annotations, core.MirrorPodAnnotationKey)
	other := node
	other.Name = "node2"
	for _, tt := range []struct {
		what string
		pod  *core.Pod
		want string
	}{
		{"a mirror", mirror(static, node), static},
		{"no mirror", plain, "b0b0b0b0-0000-4000-8000-000000000000"},
		{"a mirror of no node", mirror(static), "b0b0b0b0-0000-4000-8000-000000000000"},
		{"a mirror of another node", mirror(static, other), "b0b0b0b0-0000-4000-8000-000000000000"},
		{"another pod's UID", mirror("c0c0c0c0-0000-4000-8000-000000000000", node), "b0b0b0b0-0000-4000-8000-000000000000"},
		{"a path", mirror("../../../system.slice", node), "b0b0b0b0-0000-4000-8000-000000000000"},
	} {
		if o := renderPod(nil, tt.pod); string(o.pod.uid) != tt.want {
			t.Errorf("%s: UID %s, want %s", tt.what, o.pod.uid, tt.want)
		}
	}
	gone := mirror(static, node)
	gone.Status.Phase = core.PodFailed
	if o := renderPod(nil, gone); o.pod != nil {
		t.Error("a pod that has ended has a cgroup")
	}
}

// TestSecrets: a Secret is read while an object names it.
func TestSecrets(t *testing.T) {
	c := cluster(t)
	s := synced(t, Options{Config: c.Config(), GatewaySelector: map[string]string{"istio": "mine", "zone": "a"}})
	ns := c.Namespace(t, nil)
	for _, name := range []string{"named", "named-cacert", "other", "foreign"} {
		c.Kubectl(t, "create", "secret", "generic", "-n", ns, name, "--from-literal=tls.crt=one")
	}
	gateway := func(name, label, secret string) {
		t.Helper()
		c.Apply(t, fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: %s, namespace: %s}, spec: {selector: {istio: %s}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: %s}}]}}", name, ns, label, secret))
	}
	gateway("g", "mine", "named")
	gateway("h", "theirs", "foreign")
	named := "kubernetes:Secret/" + ns + "/named"
	has(t, s, named, `"tls.crt":"b25l"`)
	has(t, s, named+"-cacert", `"tls.crt":"b25l"`)
	has(t, s, "kubernetes:Gateway/"+ns+"/h", "theirs")
	c.Kubectl(t, "patch", "secret", "-n", ns, "named", "-p", `{"stringData":{"tls.crt":"two"}}`)
	has(t, s, named, `"tls.crt":"dHdv"`)
	for _, f := range s.Files() {
		if strings.HasPrefix(f.Name, "kubernetes:Secret/") && !strings.HasPrefix(f.Name, named) {
			t.Errorf("%s is read, which nothing of this node's names", f.Name)
		}
	}
	c.Apply(t, fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d, namespace: %s}, spec: {host: a.example.com, trafficPolicy: {tls: {mode: SIMPLE, credentialName: other}}}}", ns))
	has(t, s, "kubernetes:Secret/"+ns+"/other", "b25l")
	gateway("g", "mine", "other")
	has(t, s, named, "")
	c.Kubectl(t, "delete", "destinationrule", "-n", ns, "d")
	c.Kubectl(t, "delete", "gateways.networking.istio.io", "-n", ns, "g")
	has(t, s, "kubernetes:Secret/"+ns+"/other", "")
	if n := s.Status().Kinds["Secret"].Objects; n != 0 {
		t.Errorf("%d Secrets are kept that nothing names", n)
	}
}

// TestUnchanged: what did not change is the same memory, and what says nothing is no
// change.
func TestUnchanged(t *testing.T) {
	c := cluster(t)
	s := synced(t, Options{Config: c.Config()})
	ns := c.Namespace(t, nil)
	entry := func(name, host string) {
		t.Helper()
		c.Apply(t, serviceEntry(ns, name, host))
		has(t, s, "kubernetes:ServiceEntry/"+ns+"/"+name, host)
	}
	entry("a", "one")
	entry("b", "one")
	pick := func(name string) []byte {
		for _, f := range s.Files() {
			if f.Name == "kubernetes:ServiceEntry/"+ns+"/"+name {
				return f.Data
			}
		}
		return nil
	}
	a, b := pick("a"), pick("b")
	c.Kubectl(t, "annotate", "serviceentry", "-n", ns, "a", "example.com/noise=1")
	entry("b", "two")
	if now := pick("a"); !bytes.Equal(a, now) || &a[0] != &now[0] {
		t.Errorf("a file that did not change is another one: %s", now)
	}
	if now := pick("b"); bytes.Equal(b, now) {
		t.Error("a file that changed is the same")
	}
	var last string
	for _, f := range s.Files() {
		if f.Name <= last {
			t.Fatalf("%s comes after %s", f.Name, last)
		}
		last = f.Name
	}
}
