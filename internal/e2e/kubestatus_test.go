// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/world"
)

// TestKubernetesTells: what a pod is denied is an Event of the pod, flows and explain
// know the pod by its name, and an object that is refused has a condition, until it is
// right.
func TestKubernetesTells(t *testing.T) {
	t.Parallel()
	c := kubetest.Start(t, kubetest.Options{})
	c.InstallIstio(t)
	c.Kubectl(t, "create", "namespace", "egressd-system") // has the Lease
	ns := c.Namespace(t, nil)
	c.Pod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}, "10.244.1.5", "fd00::5")
	n := prepare(t, map[string]string{"base.yaml": tcp("base", world.API, "7")}, nil,
		"--kubernetes", "--kubeconfig", c.Kubeconfig(kubetest.Admin), "--node-name", "node1")
	web, err := n.d.Root.Child("web")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = web.Close() }) // also when the daemon's root goes first
	// No kubelet has made the pod's cgroup here: a file says which one it is, before
	// the API server does.
	n.write(t, "workloads.yaml", n.workload(t, "web", ns, "web", ""))
	n.relay(t, c)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := n.curl(t, web, "https://"+world.GoogleAPIs+"/"); a.exit == 0 {
		t.Fatalf("a host that nobody declares answers %d", a.status)
	}
	if a := n.curl(t, nil, "https://"+world.GoogleAPIs+"/"); a.exit != 0 {
		t.Fatalf("without egressd: %+v", a)
	}
	eventually(t, soon, "the pod has an Event", func() bool {
		out := c.Kubectl(t, "events", "-n", ns, "--for", "pod/web")
		return strings.Contains(out, "EgressDenied") && strings.Contains(out, "for "+world.GoogleAPIs+" was denied")
	})
	if out := c.Kubectl(t, "events", "-n", ns, "--for", "pod/web"); !strings.Contains(out, `"egressd explain --pod `+ns+"/web "+world.GoogleAPIs+`:443" on node node1 writes it`) {
		t.Errorf("it does not say what to do:\n%s", out)
	}
	if e := n.egressd(t, "flows", "--pod", "web", "-n", ns, "--verdict", "deny"); !strings.Contains(e.stdout, ns+"/web curl[") || !strings.Contains(e.stdout, world.GoogleAPIs) {
		t.Errorf("flows of the pod: %+v", e)
	}
	if e := n.egressd(t, "flows", "--pod", ns+"/other"); e.code != 0 || e.stdout != "" {
		t.Errorf("flows of another pod: %+v", e)
	}
	if e := n.egressd(t, "explain", "--pod", ns+"/web", "https://"+world.GoogleAPIs+"/"); e.code != 1 || !strings.Contains(e.stdout, "namespace: "+ns) {
		t.Errorf("explain: %+v", e)
	}
	if got := n.metric(t, `egressd_kubernetes_events_total{outcome="written"}`); got == "0" {
		t.Error("no Event is counted")
	}

	entry := func(host string) {
		t.Helper()
		c.Apply(t, strings.ReplaceAll(strings.ReplaceAll(tcp("api", host, "443"), "TCP", "TLS"), "{name: api}", "{name: api, namespace: "+ns+"}"))
	}
	entry(`"999"`) // the schema lets this host pass
	c.Kubectl(t, "wait", "-n", ns, "serviceentry/api", "--for=condition=egressd.dev/Accepted=False", "--timeout=60s")
	if e := n.egressd(t, "status"); !strings.Contains(e.stdout, "this daemon writes statuses") {
		t.Errorf("status: %s", e.stdout)
	}
	entry(world.GoogleAPIs)
	eventually(t, time.Minute, "an object that is right has no condition", func() bool {
		return !strings.Contains(c.Kubectl(t, "get", "-n", ns, "serviceentry", "api", "-o", "json"), "egressd.dev/Accepted")
	})
	if a := n.curl(t, web, "https://"+world.GoogleAPIs+"/"); a.exit != 0 {
		t.Errorf("what the Event said to do is done: %+v", a)
	}
}
