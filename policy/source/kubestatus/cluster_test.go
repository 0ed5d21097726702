// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy/istio"
)

// role is what a Publisher needs of the API server, and nothing more: the tests
// run with it.
const role = `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: %[1]s-status}, rules: [
  {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch, get]},
  {apiGroups: [networking.istio.io], resources: [serviceentries, virtualservices, gateways, destinationrules, sidecars, workloadentries], verbs: [get, list, watch]},
  {apiGroups: [networking.istio.io], resources: [serviceentries/status, virtualservices/status, gateways/status, destinationrules/status, sidecars/status, workloadentries/status], verbs: [update]},
  {apiGroups: [security.istio.io], resources: [authorizationpolicies], verbs: [get, list, watch]},
  {apiGroups: [security.istio.io], resources: [authorizationpolicies/status], verbs: [update]},
  {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses, gateways, httproutes, grpcroutes, tlsroutes, tcproutes, referencegrants], verbs: [get, list, watch]},
  {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses/status, gateways/status, httproutes/status, grpcroutes/status, tlsroutes/status, tcproutes/status], verbs: [update]},
  {apiGroups: [""], resources: [services, namespaces, pods], verbs: [get, list, watch]},
  {apiGroups: [""], resources: [secrets], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: %[1]s-status}, subjects: [{kind: ServiceAccount, name: egressd, namespace: %[1]s}],
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s-status}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: egressd-status, namespace: %[1]s}, rules: [
  {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]},
  {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [egressd-status], verbs: [get, update]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: egressd-status, namespace: %[1]s}, subjects: [{kind: ServiceAccount, name: egressd, namespace: %[1]s}],
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: egressd-status}}`

var quick = Election{Duration: 2 * time.Second, Renew: 1500 * time.Millisecond, Retry: 300 * time.Millisecond, Check: 300 * time.Millisecond}

// site is a namespace of a real API server's, with the account of a Publisher.
type site struct {
	*kubetest.Cluster
	ns         string
	config     *rest.Config
	kubeconfig string
	findings
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Cluster: shared.Cluster(t)}
	s.InstallIstio(t)
	s.ns = s.Namespace(t, nil)
	s.config, s.kubeconfig = s.ServiceAccount(t, s.ns, "egressd")
	s.Apply(t, fmt.Sprintf(role, s.ns))
	return s
}

// run runs a Publisher until the test ends.
func (s *site) run(t *testing.T, pods Pods) *Publisher {
	t.Helper()
	p, err := New(Options{
		Config: s.config, Node: "node1", Namespace: s.ns, Election: quick, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Lookups: Lookups{Pods: pods, Findings: s.get},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() { defer close(ended); p.Run(ctx, true) }()
	t.Cleanup(func() { cancel(); <-ended })
	return p
}

func (s *site) entry(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		s.Apply(t, fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: %s, namespace: %s}, spec: {hosts: [%[1]s.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}}`, n, s.ns))
	}
}

// object reads an object.
func (s *site) object(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(s.Kubectl(t, "get", "-n", s.ns, kind, name, "-o", "json", "--show-managed-fields")), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func (s *site) about(severity istio.Severity, name, text string) istio.Finding {
	return finding(severity, "ServiceEntry/"+s.ns+"/"+name, "EGD0210", text)
}

// TestIstioStatus: with the rights of the documented role a condition comes beside
// those of istiod, is what "kubectl wait" waits for, is not written again, and goes
// when there is nothing to say any more.
func TestIstioStatus(t *testing.T) {
	s := newSite(t)
	s.entry(t, "bad", "good")
	admin, err := dynamic.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	o := s.object(t, "serviceentry", "bad")
	o.Object["status"] = map[string]any{
		"conditions":         []any{map[string]any{"type": "Reconciled", "status": "True"}},
		"validationMessages": []any{map[string]any{"level": "INFO", "type": map[string]any{"code": "IST0118"}}},
	}
	if _, err := admin.Resource(entries).Namespace(s.ns).UpdateStatus(t.Context(), o, meta.UpdateOptions{FieldManager: "istiod"}); err != nil {
		t.Fatal(err)
	}
	s.set(s.about(istio.Error, "bad", "host bad.example.com is listed twice"))
	p := s.run(t, node{})
	s.Kubectl(t, "wait", "-n", s.ns, "serviceentry/bad", "--for=condition=egressd.dev/Accepted=False", "--timeout=30s")
	o = s.object(t, "serviceentry", "bad")
	status, _ := json.Marshal(o.Object["status"])
	for _, want := range []string{`"type":"Reconciled"`, `"IST0118"`, `"EGD0210"`, "its last good one is if there was one: host bad.example.com is listed twice (EGD0210)", `"observedGeneration":1`} {
		if !strings.Contains(string(status), want) {
			t.Errorf("%s does not have %s", status, want)
		}
	}
	if !slices.ContainsFunc(o.GetManagedFields(), func(f meta.ManagedFieldsEntry) bool { return f.Manager == Manager && f.Subresource == "status" }) {
		t.Errorf("%+v", o.GetManagedFields())
	}
	testenv.Until(t, "the API server has it", func() bool {
		return strings.Contains(s.Kubectl(t, "events", "-n", s.ns, "--for", "serviceentry/bad"), "listed twice")
	})
	s.rounds(t, 3)
	if again := s.object(t, "serviceentry", "bad"); again.GetResourceVersion() != o.GetResourceVersion() || p.Stats().Statuses.Written != 1 {
		t.Errorf("it was written again: %+v", p.Stats())
	}
	if st := s.object(t, "serviceentry", "good").Object["status"]; st != nil {
		t.Errorf("an object without findings has a status: %v", st)
	}
	s.set()
	testenv.Until(t, "the API server has it", func() bool { return acceptedOf(s.object(t, "serviceentry", "bad")) == "" })
	status, _ = json.Marshal(s.object(t, "serviceentry", "bad").Object["status"])
	if !strings.Contains(string(status), `"Reconciled"`) || !strings.Contains(string(status), "IST0118") || strings.Contains(string(status), "EGD") {
		t.Errorf("left: %s", status)
	}
	s.rounds(t, 3)
	if n := p.Stats().Statuses.Written; n != 2 {
		t.Errorf("%d written", n)
	}
}

// Of the process that writes statuses beside another one.
const (
	helperKubeconfig = "KUBESTATUS_KUBECONFIG"
	helperNamespace  = "KUBESTATUS_NAMESPACE"
	helperName       = "KUBESTATUS_NAME"
)

// helper is a daemon with findings of its own, which its name is in.
func helper() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ns, name := os.Getenv(helperNamespace), os.Getenv(helperName)
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv(helperKubeconfig))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p, err := New(Options{
		Config: config, Node: name, Namespace: ns, Election: quick, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Lookups: Lookups{Pods: node{}, Findings: func() []istio.Finding {
			return []istio.Finding{
				finding(istio.Warning, "ServiceEntry/"+ns+"/both", "EGD0210", "written by "+name),
				finding(istio.Warning, "ServiceEntry/"+ns+"/"+name, "EGD0210", "written by "+name),
			}
		}},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("runs")
	p.Run(ctx, true)
	return 0
}

// TestOneWriter: of two daemons one writes; when it is killed the other one does,
// and removes what only the killed one had to say.
func TestOneWriter(t *testing.T) {
	s := newSite(t)
	s.entry(t, "both", "first", "second")
	daemons := map[string]*exec.Cmd{}
	for _, name := range []string{"first", "second"} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), helperKubeconfig+"="+s.kubeconfig, helperNamespace+"="+s.ns, helperName+"="+name)
		log := &testenv.Buffer{}
		cmd.Stderr = log
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		daemons[name] = cmd
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("%s: %s", name, log)
			}
		})
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "runs\n" {
			t.Fatal(line, err, log)
		}
	}
	holder := func() string {
		out, _ := s.TryKubectl("", "get", "lease", "-n", s.ns, LeaseName, "-o", "jsonpath={.spec.holderIdentity} {.spec.renewTime}")
		return out
	}
	writer := func() string {
		status, _ := json.Marshal(s.object(t, "serviceentry", "both").Object["status"])
		for name := range daemons {
			if strings.Contains(string(status), "written by "+name) {
				return name
			}
		}
		return ""
	}
	testenv.Until(t, "the API server has it", func() bool { return writer() != "" })
	one := writer()
	other := map[string]string{"first": "second", "second": "first"}[one]
	for range 4 { // it goes on to hold the Lease, and nobody else writes
		was := holder()
		if !strings.HasPrefix(was, one+"_") {
			t.Fatalf("%s writes, and the Lease is that of %s", one, was)
		}
		testenv.Until(t, "the API server has it", func() bool { return holder() != was })
		if w := writer(); w != one {
			t.Fatalf("%s has written, and %s holds the Lease", w, one)
		}
	}
	testenv.Until(t, "the API server has it", func() bool { return acceptedOf(s.object(t, "serviceentry", one)) == "True" })
	if got := acceptedOf(s.object(t, "serviceentry", other)); got != "" {
		t.Errorf("what %s alone says is written: %s", other, got)
	}
	if err := daemons[one].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "the API server has it", func() bool {
		return writer() == other && strings.HasPrefix(holder(), other+"_") &&
			acceptedOf(s.object(t, "serviceentry", one)) == "" && acceptedOf(s.object(t, "serviceentry", other)) == "True"
	})
}

// podsOf are the pods of a test.
type podsOf map[string]types.UID

func (p podsOf) UID(namespace, name string) (types.UID, bool) {
	uid, ok := p[namespace+"/"+name]
	return uid, ok
}

// TestEventsOfPods: people see a denial with kubectl, under the pod. Nobody waits
// while the API server is away, and it is told when that is back.
func TestEventsOfPods(t *testing.T) {
	s := newSite(t)
	pod := s.Pod(t, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: s.ns, Name: "web"}}, "10.244.1.5", "fd00::5")
	p := s.run(t, podsOf{s.ns + "/web": pod.UID})
	p.Record(new(denial(s.ns+"/web", "api.example.com", "192.0.2.1:443")))
	const said = "The connection of curl to api.example.com:443/tcp was denied"
	testenv.Until(t, "the API server has it", func() bool {
		return strings.Contains(s.Kubectl(t, "events", "-n", s.ns, "--for", "pod/web"), said)
	})
	if out := s.Kubectl(t, "describe", "pod", "-n", s.ns, "web"); !strings.Contains(out, said) || !strings.Contains(out, "EgressDenied") {
		t.Error(out)
	}
	s.KillAPI()
	began := time.Now()
	for i := range 10 * queueLength {
		p.Record(new(denial(s.ns+"/web", fmt.Sprintf("h%d.example.com", i), "192.0.2.1:443")))
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the data path waited %s", took)
	}
	testenv.Until(t, "the API server has it", func() bool { n := p.Stats().Events; return n.Failed+n.Dropped >= 10*queueLength })
	if err := s.StartAPI(); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "the API server has it", func() bool {
		p.Record(new(denial(s.ns+"/web", "later.example.com", "192.0.2.1:443")))
		out, _ := s.TryKubectl("", "events", "-n", s.ns, "--for", "pod/web")
		return strings.Contains(out, "later.example.com")
	})
}
