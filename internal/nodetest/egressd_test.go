// SPDX-License-Identifier: Apache-2.0

//go:build node

package nodetest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/world"
)

// With egressd, as deploy/kubernetes installs it: pods of a namespace with the
// label egressd.dev/mode: enforce get where the policy says, and nowhere else.
// Each test has its twin in the same cluster: a pod in mode off, or node_test.go.

// manifest is what an operator applies.
const manifest = "deploy/kubernetes/egressd.yaml"

const system = "egressd-system"

// imageOf finds the image of egressd in the manifest, and when it is pulled.
var imageOf = regexp.MustCompile(`(?m)^(\s*)image: .*egressd:\S+\n\s*imagePullPolicy: \w+$`)

// installed is egressd on the node.
var installed struct {
	once sync.Once
	err  error
}

// withEgressd is the node with egressd, Istio's kinds and the seed's policy.
func withEgressd(t *testing.T) *Node {
	t.Helper()
	n := node(t)
	installed.once.Do(func() { installed.err = n.install() })
	if installed.err != nil {
		t.Fatal(installed.err)
	}
	return n
}

func (n *Node) install() error {
	if err := n.LoadEgressd(); err != nil {
		return err
	}
	for _, definitions := range []func() ([]string, error){kubetest.IstioKinds, kubetest.GatewayAPIKinds} {
		if err := kubetest.Install(n.Kubectl, definitions); err != nil {
			return err
		}
	}
	if _, err := n.Kubectl("apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}\n", "apply", "-f", "-"); err != nil {
		return err
	}
	if err := n.deploy(manifest); err != nil {
		return err
	}
	return n.applySeed()
}

// deploy applies a file of deploy/, with the image of LoadEgressd, and waits until it
// runs.
func (n *Node) deploy(file string) error {
	root, err := kubetest.Root()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return err
	}
	if !imageOf.Match(text) {
		return fmt.Errorf("%s names no image of egressd", file)
	}
	yaml := imageOf.ReplaceAllString(string(text), "${1}image: "+EgressdImage+"\n${1}imagePullPolicy: Never")
	if _, err := n.Kubectl(yaml, "apply", "-f", "-"); err != nil {
		return err
	}
	return n.rollout()
}

// applySeed gives the namespace default, from which they are for all, the
// examples of the seed.
func (n *Node) applySeed() error {
	root, err := kubetest.Root()
	if err != nil {
		return err
	}
	for _, name := range []string{"googleapis.yaml", "external-db-dns.yaml"} {
		text, err := os.ReadFile(filepath.Join(root, "examples/seed", name))
		if err != nil {
			return err
		}
		// The schema of Istio's kind takes no bare number; files may have one.
		yaml := strings.ReplaceAll(string(text), "timeout: 10\n", "timeout: 10s\n")
		if _, err := n.Kubectl(yaml, "apply", "-f", "-"); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// rollout waits until egressd runs everywhere. The error has what it printed.
func (n *Node) rollout() error {
	_, err := n.Kubectl("", "-n", system, "rollout", "status", "daemonset", "--timeout=90s")
	if err != nil {
		log, _ := n.Kubectl("", "-n", system, "logs", "-l", "app.kubernetes.io/name=egressd", "--tail=40") // the failure is what matters
		state, _ := n.Kubectl("", "-n", system, "describe", "pods")
		return fmt.Errorf("%w\n%s\n%s", err, state, log)
	}
	return nil
}

var (
	allowed    = "http://" + world.GoogleAPIs + "/"
	strangerV4 = netip.MustParseAddr(world.StrangerV4)
	strangerV6 = netip.MustParseAddr(world.StrangerV6)
	// doors are addresses that no policy names.
	doors = []string{world.StrangerV4 + ":80", "[" + world.StrangerV6 + "]:80"}
)

// escaped counts the packets to the stranger.
func (n *Node) escaped() int { return n.World.Packets(strangerV4) + n.World.Packets(strangerV6) }

// nothingEscapes fails the test if a packet to the stranger leaves while f runs.
func (n *Node) nothingEscapes(t *testing.T, f func()) {
	t.Helper()
	before := n.escaped()
	f()
	if got := n.escaped() - before; got != 0 {
		t.Errorf("%d packets to the stranger left the node", got)
	}
}

// TestSeedIsEnforced: what the seed names is allowed, by its name, on the ports that it
// names, and all else is not. A pod in mode off is not held.
func TestSeedIsEnforced(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	n.Apply(t, Pod{Namespace: ns, Name: "client"}.YAML()+Pod{Namespace: ns, Name: "free", Mode: "off"}.YAML())
	n.WaitReady(t, ns, "client", "free")
	for _, url := range []string{allowed, "https://" + world.GoogleAPIs + "/"} {
		Eventually(t, 10*time.Second, func() error { return n.Get(ns, "client", url) })
	}
	if _, err := n.Tool(ns, "client", "connect", "tcp", world.ExternalDB+":3306"); err != nil {
		t.Errorf("the database: %v", err)
	}
	n.nothingEscapes(t, func() {
		for _, url := range []string{"http://" + doors[0] + "/", "http://" + doors[1] + "/", "http://" + world.Stranger + "/", "https://" + world.Stranger + "/"} {
			if err := n.Denied(ns, "client", url); err != nil {
				t.Error(err)
			}
		}
		if out, err := n.Tool(ns, "client", "connect", "udp", doors[0]); err == nil {
			t.Errorf("UDP: %s", out)
		}
	})
	if err := n.Get(ns, "free", "http://"+world.Stranger+"/"); err != nil {
		t.Errorf("mode off: %v", err)
	}
}

// TestClusterIsOpen: Services and their names are for every pod.
func TestClusterIsOpen(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	n.Apply(t, strings.ReplaceAll(server, "NAMESPACE", ns)+
		Pod{Namespace: ns, Name: "server", Command: []string{"serve", ":8080"}}.YAML()+Pod{Namespace: ns, Name: "client"}.YAML())
	n.WaitReady(t, ns, "server", "client")
	for _, url := range []string{"http://server/", "http://server." + ns + ".svc.cluster.local/", "http://headless:8080/"} {
		Eventually(t, 20*time.Second, func() error { return n.Get(ns, "client", url) })
	}
	if _, err := n.Tool(ns, "client", "connect", "tcp", "10.96.0.1:443"); err != nil {
		t.Errorf("the API server: %v", err)
	}
	// ExternalName leads out of the cluster, where api.example.com is not allowed.
	if err := n.Denied(ns, "client", "http://outside/"); err != nil {
		t.Error(err)
	}
}

// TestFirstPacket: a pod is held from its first instruction on, before anybody
// can have told of it; its init containers, and its own network or the node's.
func TestFirstPacket(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	knock := append([]string{"knock", "-for", "2s"}, doors...)
	for _, host := range []bool{false, true} {
		name := map[bool]string{false: "pod", true: "host"}[host]
		n.nothingEscapes(t, func() {
			out := n.Finish(t, Pod{Namespace: ns, Name: name, HostNetwork: host, Init: knock, Command: knock})
			first := n.MustKubectl(t, "-n", ns, "logs", name, "-c", "init")
			for _, text := range []string{first, out} {
				if !strings.Contains(text, ", connected 0\n") || strings.HasPrefix(text, "tried 0,") {
					t.Errorf("%s: %s", name, text)
				}
			}
		})
		if out := n.Finish(t, Pod{Namespace: ns, Name: name + "-free", Mode: "off", HostNetwork: host, Command: knock}); strings.Contains(out, "connected 0\n") {
			t.Errorf("%s in mode off: %s", name, out)
		}
	}
}

// TestInitContainerIsAllowed: what the policy allows, an init container gets, which
// has no second try.
func TestInitContainerIsAllowed(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	out := n.Finish(t, Pod{Namespace: ns, Name: "p", Init: []string{"load", "-for", "2s", allowed}, Command: []string{"get", allowed}})
	if !strings.HasPrefix(out, "200 OK") {
		t.Errorf("the pod says %q", out)
	}
	if got := n.MustKubectl(t, "-n", ns, "logs", "p", "-c", "init"); !strings.Contains(got, ", failed 0") || strings.HasPrefix(got, "requests 0") {
		t.Errorf("the init container says %q", got)
	}
}

// TestHostNetworkPod: a pod with the node's network is a pod: its policy holds
// for it, and not for the node.
func TestHostNetworkPod(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	n.RunPod(t, Pod{Namespace: ns, Name: "host", HostNetwork: true})
	Eventually(t, 10*time.Second, func() error { return n.Get(ns, "host", allowed) })
	n.nothingEscapes(t, func() {
		if err := n.Denied(ns, "host", "http://"+doors[0]+"/"); err != nil {
			t.Error(err)
		}
	})
	// What the pods' image holds, as a process of the node.
	if out, err := n.Run(filepath.Join(n.bin, "tool"), "connect", "tcp", doors[0]); err != nil {
		t.Errorf("the node itself: %v %s", err, out)
	}
}

const api2 = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api2, namespace: NAMESPACE}
spec: {hosts: [api2.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}], exportTo: ["."]}
`

// TestChangeIsFast: a change of the policy holds within a second.
func TestChangeIsFast(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	url := "http://" + world.API2 + "/"
	n.RunPod(t, Pod{Namespace: ns, Name: "client", Once: true, Command: []string{"load", url}})
	if err := n.Denied(ns, "client", url); err != nil {
		t.Fatal(err)
	}
	n.Apply(t, strings.ReplaceAll(api2, "NAMESPACE", ns))
	applied := time.Now() // the API server has it a little earlier
	if took := started(t, n, ns, "client", 20*time.Second).Sub(applied); took > time.Second {
		t.Errorf("a ServiceEntry was acted on %s after it was applied", took)
	}
	n.MustKubectl(t, "-n", ns, "delete", "serviceentry", "api2")
	Eventually(t, time.Second+2*every, func() error { return n.Denied(ns, "client", url) })
}

const bad = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bad, namespace: NAMESPACE}
spec:
  hosts: [bad.example.com]
  resolution: STATIC
  endpoints: [{address: not-an-address}, {address: 203.0.113.66}]
  ports: [{number: 80, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: NAMESPACE}
spec:
  hosts: [www.googleapis.com]
  http: [{match: [{uri: {regex: "("}}], route: [{destination: {host: www.googleapis.com}}]}]
---
`

// TestBadObject: an object that the schema takes and egressd does not is left
// out alone, whatever comes with it. One that could restrict something denies what it
// is about until somebody corrects it, and nothing else.
func TestBadObject(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	n.RunPod(t, Pod{Namespace: ns, Name: "client"})
	Eventually(t, 10*time.Second, func() error { return n.Get(ns, "client", allowed) })
	n.Apply(t, strings.ReplaceAll(bad+api2, "NAMESPACE", ns))
	Eventually(t, 10*time.Second, func() error { return n.Get(ns, "client", "http://"+world.API2+"/") })
	Eventually(t, 10*time.Second, func() error {
		out, err := n.Tool(ns, "client", "get", "-close", allowed)
		if err == nil && !strings.HasPrefix(out, "503 ") {
			err = fmt.Errorf("the host of a bad VirtualService says %q", out)
		}
		return err
	})
	if _, err := n.Tool(ns, "client", "connect", "tcp", world.ExternalDB+":3306"); err != nil {
		t.Errorf("what was allowed before: %v", err)
	}
	n.nothingEscapes(t, func() {
		if err := n.Denied(ns, "client", "http://"+doors[0]+"/"); err != nil {
			t.Error(err)
		}
	})
	n.MustKubectl(t, "-n", ns, "delete", "virtualservice", "bad")
	Eventually(t, 10*time.Second, func() error { return n.Get(ns, "client", allowed) })
}
