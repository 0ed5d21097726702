// SPDX-License-Identifier: Apache-2.0

//go:build node

package nodetest

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// Without egressd, everything works: what another test finds denied is not
// denied by the node.

// TestPodsReachTheInternet: by names that the cluster's DNS server asks the
// node's for, over both families of addresses, with and without TLS, from a pod
// and from one with the node's network.
func TestPodsReachTheInternet(t *testing.T) {
	n := node(t)
	ns := n.Namespace(t, "off")
	n.Apply(t, Pod{Namespace: ns, Name: "client"}.YAML()+Pod{Namespace: ns, Name: "host", HostNetwork: true}.YAML())
	n.WaitReady(t, ns, "client", "host")
	addrs := n.World.API.Addrs()
	for _, pod := range []string{"client", "host"} {
		got, err := n.Tool(ns, pod, "lookup", world.API)
		if err != nil || len(strings.Fields(got)) != 2 || !slices.Contains(strings.Fields(got), addrs[0].String()) {
			t.Errorf("%s: %s is %q, %v; want %v", pod, world.API, got, err, addrs)
		}
		for _, url := range []string{
			"http://" + world.API + "/", "https://" + world.API + "/", "http://" + netip.AddrPortFrom(addrs[0], 80).String() + "/",
			"http://" + netip.AddrPortFrom(addrs[1], 80).String() + "/", "http://" + world.Stranger + "/",
		} {
			if err := n.Get(ns, pod, url); err != nil {
				t.Errorf("%s: %v", pod, err)
			}
		}
		if _, err := n.Tool(ns, pod, "get", "https://"+world.Stranger+"/"); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: a site of an unknown authority: %v", pod, err)
		}
		if _, err := n.Tool(ns, pod, "lookup", "no-such-name.example"); err == nil || !strings.Contains(err.Error(), "no such host") {
			t.Errorf("%s: a name that is not there: %v", pod, err)
		}
		if _, err := n.Tool(ns, pod, "connect", "udp", world.StrangerV4+":443"); err != nil {
			t.Errorf("%s: UDP: %v", pod, err)
		}
	}
	if n.World.Packets(netip.MustParseAddr(world.StrangerV4)) == 0 {
		t.Error("the wire does not count what leaves the node")
	}
}

const server = `---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: NAMESPACE}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: NAMESPACE}
spec: {clusterIP: None, selector: {app: server}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: NAMESPACE}
spec: {type: ExternalName, externalName: api.example.com}
`

// TestServices: a pod reaches Services by their short and long names, and the
// API server.
func TestServices(t *testing.T) {
	n := node(t)
	ns := n.Namespace(t, "off")
	n.Apply(t, strings.ReplaceAll(server, "NAMESPACE", ns)+
		Pod{Namespace: ns, Name: "server", Command: []string{"serve", ":8080"}}.YAML()+Pod{Namespace: ns, Name: "client"}.YAML())
	n.WaitReady(t, ns, "server", "client")
	// An endpoint becomes one a moment after the pod is ready.
	for _, url := range []string{
		"http://server/", "http://server." + ns + "/", "http://server." + ns + ".svc.cluster.local/",
		"http://headless:8080/", "http://outside/",
	} {
		Eventually(t, 20*time.Second, func() error { return n.Get(ns, "client", url) })
	}
	if out, err := n.Tool(ns, "client", "get", "http://server/"); err != nil || !strings.HasSuffix(out, "server") {
		t.Errorf("the Service answers %q, %v", out, err)
	}
	if _, err := n.Tool(ns, "client", "connect", "tcp", "10.96.0.1:443"); err != nil {
		t.Errorf("the API server: %v", err)
	}
}

// TestInitContainer: an init container runs before the pod's own, with the
// network.
func TestInitContainer(t *testing.T) {
	n := node(t)
	ns := n.Namespace(t, "off")
	out := n.Finish(t, Pod{Namespace: ns, Name: "p", Init: []string{"get", "http://" + world.API + "/"}, Command: []string{"knock", "-for", "100ms", world.StrangerV4 + ":80"}})
	if strings.Contains(out, "connected 0\n") {
		t.Errorf("the pod says %q", out)
	}
	if got := n.MustKubectl(t, "-n", ns, "logs", "p", "-c", "init"); !strings.HasPrefix(got, "200 OK") {
		t.Errorf("the init container says %q", got)
	}
}

// TestPodsHaveCgroups: a container is in a cgroup2 of its own, below the pod's,
// where the kubelet puts it.
func TestPodsHaveCgroups(t *testing.T) {
	n := node(t)
	ns := n.Namespace(t, "off")
	n.RunPod(t, Pod{Namespace: ns, Name: "p"})
	uid := n.MustKubectl(t, "-n", ns, "get", "pod", "p", "-o", "jsonpath={.metadata.uid}")
	root, err := n.Root()
	if err != nil {
		t.Fatal(err)
	}
	tree := map[string]string{"hybrid": "sys/fs/cgroup/unified", "unified": "sys/fs/cgroup"}[n.Mode]
	path := filepath.Join(root, tree, "kubepods", "besteffort", "pod"+uid, n.Container(t, ns, "p"), "cgroup.procs")
	if found, err := filepath.Glob(path); err != nil || len(found) != 1 {
		t.Errorf("%s is not there: %v", path, err)
	}
}

// TestLoad: a load counts the requests that fail, and only those.
func TestLoad(t *testing.T) {
	n := node(t)
	ns := n.Namespace(t, "off")
	url := "http://" + world.API + "/"
	if out := n.Finish(t, Pod{Namespace: ns, Name: "good", Command: []string{"load", "-for", "500ms", url}}); !strings.Contains(out, ", failed 0") || strings.Contains(out, "requests 0") {
		t.Errorf("the load says %q", out)
	}
	const name = "flaky.example"
	n.World.DNS.SetA(name, 0, n.World.API.Addrs()[0])
	n.RunPod(t, Pod{Namespace: ns, Name: "bad", Once: true, Command: []string{"load", "http://" + name + "/"}})
	started(t, n, ns, "bad", 20*time.Second)
	n.World.DNS.Fail(name, 2) // SERVFAIL
	Eventually(t, 20*time.Second, func() error {
		out, err := n.Kubectl("", "-n", ns, "logs", "bad")
		if err == nil && !strings.Contains(out, " failed: ") {
			err = errors.New("no request has failed")
		}
		return err
	})
	n.Interrupt(t, n.Container(t, ns, "bad"))
	n.WaitEnded(t, ns, "bad")
	if out := n.MustKubectl(t, "-n", ns, "logs", "bad"); strings.Contains(out, ", failed 0") {
		t.Errorf("the load says %q", out)
	}
}

// TestAPIServerAway: pods go on while the API server is away, and it comes back
// with what it knew.
func TestAPIServerAway(t *testing.T) {
	n := node(t)
	ns := n.Namespace(t, "off")
	n.Apply(t, Pod{Namespace: ns, Name: "load", Once: true, Command: []string{"load", "http://" + world.API + "/"}}.YAML())
	n.WaitReady(t, ns, "load")
	container := n.Container(t, ns, "load")
	if err := n.Kill("kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Kubectl("", "get", "node"); err == nil {
		t.Error("the killed API server answers")
	}
	before := n.World.API.Hits()
	Eventually(t, 10*time.Second, func() error { return more(n.World.API.Hits(), before) })
	if err := n.Start("kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	n.Interrupt(t, container)
	n.WaitEnded(t, ns, "load")
	if out := n.MustKubectl(t, "-n", ns, "logs", "load"); !strings.Contains(out, ", failed 0") {
		t.Errorf("the load says %q", out)
	}
}

// TestReboot: a node that lost its power comes back, with its pods.
func TestReboot(t *testing.T) {
	n := node(t)
	ns := n.Namespace(t, "off")
	n.RunPod(t, Pod{Namespace: ns, Name: "client"})
	if err := n.Reboot(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 90*time.Second, func() error { return n.Get(ns, "client", "http://"+world.API+"/") })
}
