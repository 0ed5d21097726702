// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy/istio"
)

func serviceEntry(ns, name, host string) string {
	return strings.NewReplacer("name: x", "name: "+name, "{}", ns, "[]", host).Replace(kindObjects["ServiceEntry"])
}

// TestServer: a cluster without a kind is whole without it; kinds that come later are
// noticed, and so are those that go. An API server that is killed changes nothing, and
// what changed meanwhile is there when it is back. The cluster is this test's own.
func TestServer(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	var log testenv.Buffer
	s := synced(t, Options{Config: c.Config(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if k := s.Status().Kinds["ServiceEntry"]; k.Defined || k.Synced {
		t.Fatalf("a kind that nobody has defined: %+v", k)
	}
	c.InstallIstio(t)
	ns := c.Namespace(t, nil)
	name := "kubernetes:ServiceEntry/" + ns + "/"
	c.Apply(t, serviceEntry(ns, "a", "one"))
	c.Apply(t, serviceEntry(ns, "b", "one"))
	has(t, s, name+"a", "one")
	has(t, s, name+"b", "one")
	p := c.Pod(t, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: ns, Name: "p"}})
	has(t, s, "kubernetes:Pod/"+ns+"/p", string(p.UID))

	// While it makes room for a kind that is new, it refuses requests as well: then it
	// may have been said already that it fails.
	failures := func() int {
		return strings.Count(log.String(), "level=WARN msg=\"a request to the API server failed")
	}
	answers := func() int { return strings.Count(log.String(), "answers again") }
	failed, again := failures(), answers()
	// From here on the files are looked at each time they change, and a bit later.
	before := s.Files()
	c.KillAPI()
	testenv.Until(t, "the failure is noticed", func() bool { return s.Status().Kinds["ServiceEntry"].Error != "" })
	if now := s.Files(); !slices.EqualFunc(before, now, func(a, b istio.File) bool { return a.Name == b.Name && &a.Data[0] == &b.Data[0] }) {
		t.Errorf("without an API server there are %d files, and before %d", len(now), len(before))
	}
	if n := failures() - failed; n > 1 || n == 0 && failed == again {
		t.Errorf("that the API server fails is said %d times:\n%s", n, log.String())
	}
	// An Informer that starts now knows nothing, and says so.
	other := run(t, Options{Config: c.Config()})
	if err := other.Await(t.Context(), 200*time.Millisecond); err == nil || !strings.Contains(err.Error(), "refused") || other.Synced() {
		t.Errorf("without an API server everything is known: %v", err)
	}
	if err := c.StartAPI(); err != nil {
		t.Fatal(err)
	}
	c.Apply(t, serviceEntry(ns, "a", "two"))
	c.Kubectl(t, "delete", "serviceentry", "-n", ns, "b")
	c.Apply(t, serviceEntry(ns, "c", "one"))
	has(t, s, name+"a", "two")
	has(t, s, name+"b", "")
	has(t, s, name+"c", "one")
	has(t, s, "kubernetes:Pod/"+ns+"/p", string(p.UID))
	if err := other.Await(t.Context(), testPatience); err != nil {
		t.Error(err)
	}
	has(t, other, name+"a", "two")
	testenv.Until(t, "it is said that the API server is back", func() bool { return answers() > again })

	c.Kubectl(t, "delete", "crd", "serviceentries.networking.istio.io")
	has(t, s, name+"a", "")
	testenv.Until(t, "the kind is gone", func() bool { return !s.Status().Kinds["ServiceEntry"].Defined })
	c.InstallIstio(t)
	c.Apply(t, serviceEntry(ns, "d", "one"))
	has(t, s, name+"d", "one")
}

// TestFrozen: an API server that accepts connections and answers nothing is one that is
// away.
func TestFrozen(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	s := synced(t, Options{Config: c.Config()})
	n := len(s.Files())
	resume, err := c.PauseAPI()
	if err != nil {
		t.Fatal(err)
	}
	other := run(t, Options{Config: c.Config()})
	if err := other.Await(t.Context(), 200*time.Millisecond); err == nil || !strings.Contains(err.Error(), "CustomResourceDefinition") {
		t.Errorf("a frozen API server: %v", err)
	}
	if len(s.Files()) != n || len(other.Files()) != 0 {
		t.Errorf("%d files, and %d before; %d in an Informer that is not synced", len(s.Files()), n, len(other.Files()))
	}
	resume()
	if err := other.Await(t.Context(), testPatience); err != nil {
		t.Error(err)
	}
}

// role is what an Informer needs.
const role = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: egressd}
rules:
- {apiGroups: [""], resources: [services, namespaces, pods], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [list, watch]}
- {apiGroups: [networking.istio.io], resources: [serviceentries, virtualservices, gateways, destinationrules, sidecars, workloadentries], verbs: [list, watch]}
- {apiGroups: [security.istio.io], resources: [authorizationpolicies], verbs: [list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [httproutes, gateways, gatewayclasses, referencegrants, grpcroutes, tlsroutes, tcproutes], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: egressd}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: egressd}
subjects: [{kind: ServiceAccount, namespace: %[1]s, name: egressd}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: egressd, namespace: istio-system}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [istio], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: egressd, namespace: istio-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: egressd}
subjects: [{kind: ServiceAccount, namespace: %[1]s, name: egressd}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: egressd, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [granted], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: egressd, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: egressd}
subjects: [{kind: ServiceAccount, namespace: %[1]s, name: egressd}]
`

// TestRights: these rights are enough, and with less nothing is taken for empty. A
// Secret that may not be read holds nothing up.
func TestRights(t *testing.T) {
	c := cluster(t)
	ns := c.Namespace(t, nil)
	c.Apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
	config, _ := c.ServiceAccount(t, ns, "egressd")
	s := run(t, Options{Config: config, GatewaySelector: map[string]string{"istio": "x"}})
	if err := s.Await(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Fatalf("without rights everything is known: %v", err)
	}
	for _, secret := range []string{"granted", "refused"} {
		c.Kubectl(t, "create", "secret", "generic", "-n", ns, secret, "--from-literal=tls.crt=one")
		c.Apply(t, fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: %[2]s, namespace: %[1]s}, spec: {selector: {istio: x}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: %[2]s}}]}}", ns, secret))
	}
	c.Apply(t, fmt.Sprintf(role, ns))
	if err := s.Await(t.Context(), testPatience); err != nil {
		t.Fatal(err)
	}
	has(t, s, "kubernetes:Secret/"+ns+"/granted", "b25l")
	testenv.Until(t, "the status says that a Secret may not be read", func() bool {
		return strings.Contains(s.Status().Kinds["Secret"].Error, "forbidden")
	})
}

// TestFindCluster: what says which networks are inside is read, and what may not be
// read is done without.
func TestFindCluster(t *testing.T) {
	c := cluster(t)
	ns := c.Namespace(t, nil)
	c.Apply(t, "{apiVersion: v1, kind: Node, metadata: {name: node1, labels: {a: b}}, spec: {podCIDRs: [10.244.3.0/24, 'fd00:3::/64']}}")
	c.Apply(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: kubeadm-config, namespace: kube-system}, data: {ClusterConfiguration: 'networking: {podSubnet: 10.244.0.0/16}', other: x}}")
	s := synced(t, Options{Config: c.Config(), FindCluster: true})
	has(t, s, "kubernetes:Node/node1", `"podCIDRs":["10.244.3.0/24","fd00:3::/64"]`)
	has(t, s, "kubernetes:ConfigMap.kubeadm/kube-system/kubeadm-config", "podSubnet")
	testenv.Until(t, "the Services' network is known", func() bool {
		return slices.ContainsFunc(s.Files(), func(f istio.File) bool {
			return strings.HasPrefix(f.Name, "kubernetes:ServiceCIDR/") && strings.Contains(string(f.Data), `"cidrs":[`)
		})
	})
	if text, _ := file(s, "kubernetes:Node/node1"); strings.Contains(text, "labels") || strings.Contains(text, "status") {
		t.Errorf("more of the Node than its networks: %s", text)
	}
	c.Apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
	config, _ := c.ServiceAccount(t, ns, "least")
	c.Apply(t, fmt.Sprintf(strings.ReplaceAll(strings.ReplaceAll(role, "name: egressd", "name: least"), ", tcproutes", ""), ns))
	less := run(t, Options{Config: config, FindCluster: true})
	if err := less.Await(t.Context(), testPatience); err != nil {
		t.Fatal(err)
	}
	if _, ok := file(less, "kubernetes:Node/node1"); ok {
		t.Error("a Node is read without the right to")
	}
	if st := less.Status().Kinds; !strings.Contains(st["Node"].Error, "forbidden") || !strings.Contains(st["TCPRoute"].Error, "forbidden") || !st["ServiceEntry"].Synced {
		t.Errorf("%+v", st)
	}
	c.Apply(t, fmt.Sprintf(`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: nodes}, rules: [{apiGroups: [''], resources: [nodes], verbs: [list, watch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: nodes}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nodes}, subjects: [{kind: ServiceAccount, name: least, namespace: %s}]}`, ns))
	has(t, less, "kubernetes:Node/node1", "podCIDRs")
}

// TestRequests: all objects come by watches alone, of which there is one for each kind:
// an API server that streams lists is asked for none.
func TestRequests(t *testing.T) {
	c := cluster(t)
	synced(t, Options{Config: c.Config()})
	count := func(verb, resource string) (n float64) {
		t.Helper()
		text, err := c.Get("/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "apiserver_request_total{") && strings.Contains(line, `verb="`+verb+`"`) && strings.Contains(line, `resource="`+resource+`"`) {
				var v float64
				if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &v); err != nil {
					t.Fatal(err)
				}
				n += v
			}
		}
		return n
	}
	resources := []string{"serviceentries", "endpointslices", "customresourcedefinitions"}
	before := map[string]float64{}
	for _, r := range resources {
		before[r] = count("LIST", r)
	}
	s := synced(t, Options{Config: c.Config()})
	for _, r := range resources {
		if n := count("LIST", r) - before[r]; n != 0 {
			t.Errorf("%s were listed %v times", r, n)
		}
	}
	for _, k := range s.Status().Kinds {
		if k.Errors != 0 {
			t.Errorf("requests failed: %+v", k)
		}
	}
}
