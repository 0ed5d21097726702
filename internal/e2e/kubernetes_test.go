// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/internal/world"
)

// relay lets the node reach the API server, which is on loopback of the machine, on
// its own loopback.
func (n *node) relay(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	u, err := url.Parse(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := n.Node.Listen(netip.MustParseAddrPort(u.Host))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	var running sync.WaitGroup
	running.Go(func() {
		for {
			down, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", u.Host)
			if err != nil {
				_ = down.Close()
				continue
			}
			mu.Lock()
			open = append(open, down, up)
			mu.Unlock()
			for _, c := range [][2]net.Conn{{up, down}, {down, up}} {
				running.Go(func() {
					_, _ = io.Copy(c[0], c[1])
					_, _ = c[0].Close(), c[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
}

// TestKubernetes: what the API server has is in force in less than a second, beside the
// files on disk; an object with an error is left out alone; without an API server
// everything goes on, also in a daemon that starts anew, and one that is to take over
// gives up.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	c := kubetest.Start(t, kubetest.Options{})
	c.InstallIstio(t)
	n := prepare(t, map[string]string{"base.yaml": tcp("base", world.API, "7")}, nil,
		"--kubernetes", "--kubeconfig", c.Kubeconfig(kubetest.Admin), "--node-name", "node1")
	n.relay(t, c)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	get := func() answer { return n.curl(t, n.in, "--max-time", "3", "https://"+world.GoogleAPIs+"/") }
	entry := func(host string) {
		t.Helper()
		c.Apply(t, strings.ReplaceAll(strings.ReplaceAll(tcp("api", host, "443"), "TCP", "TLS"), "{name: api}", "{name: api, namespace: default}"))
	}
	base := func(when string) {
		t.Helper()
		n.learn(t, world.API)
		if p := n.probe(t, n.in, "dial", n.Echo.Addr.String()); p.Error != "" {
			t.Errorf("%s: the base policy: %+v", when, p)
		}
		if p := n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s: not allowed: %+v, want ECONNREFUSED", when, p)
		}
	}
	base("first start")
	if a := get(); a.exit == 0 {
		t.Fatalf("a host that nobody declares answers %d", a.status)
	}
	if a := n.curl(t, nil, "https://"+world.GoogleAPIs+"/"); a.exit != 0 {
		t.Fatalf("without egressd: %+v", a)
	}
	entry(world.GoogleAPIs)
	took := eventually(t, soon, "the new object is in force", func() bool {
		return len(n.probe(t, n.in, "lookup", world.GoogleAPIs).Addrs) > 0
	})
	t.Logf("in force %v after it was applied", took)
	allowed := func(when string) {
		t.Helper()
		if a := get(); a.exit != 0 {
			t.Errorf("%s: what the API server's object allows: %+v", when, a)
		}
	}
	allowed("applied")

	// The schema lets this host pass.
	entry(`"999"`)
	eventually(t, soon, "the status says what is left out", func() bool {
		return strings.Contains(n.egressd(t, "status").stdout, "LEFT OUT")
	})
	c.Apply(t, strings.ReplaceAll(tcp("other", world.API2, "443"), "{name: other}", "{name: other, namespace: default}"))
	eventually(t, soon, "another object is in force beside a bad one", func() bool {
		return len(n.probe(t, n.in, "lookup", world.API2).Addrs) > 0
	})
	allowed("a bad version")
	if got := n.metric(t, `egressd_kubernetes_refused_objects{kind="ServiceEntry"}`); got != "1" {
		t.Errorf("refused objects: %s", got)
	}

	eventually(t, 40*time.Second, "what is in force is saved for the next start", func() bool {
		data, err := os.ReadFile(filepath.Join(n.d.StateDir(), "last-good.json"))
		// Its files are in base64: the object's name tells.
		return err == nil && strings.Contains(string(data), "kubernetes:ServiceEntry/default/other")
	})
	c.KillAPI()
	allowed("no API server")
	_ = n.d.Kill() // the error says that it was killed
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	base("a start without an API server")
	allowed("a start without an API server")
	if out := n.egressd(t, "status").stdout; !strings.Contains(out, "NOT SYNCED") {
		t.Errorf("the status without an API server:\n%s", out)
	}
	pid := n.d.PID()
	b, err := n.d.Reach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "a daemon that knows no objects gives up", func() bool {
		return strings.Contains(n.d.Log(), "no takeover: the running egressd goes on")
	})
	if err := n.d.Keep(b); err == nil {
		t.Error("it took over")
	}
	if n.status(t).PID != pid {
		t.Error("another daemon serves")
	}

	if err := c.StartAPI(); err != nil {
		t.Fatal(err)
	}
	c.Kubectl(t, "delete", "serviceentry", "other")
	eventually(t, 40*time.Second, "the object that was deleted is not in force", func() bool {
		return len(n.probe(t, n.in, "lookup", world.API2).Addrs) == 0
	})
	allowed("the API server is back, with a bad version still")
	if _, err := n.d.Takeover(t.Context()); err != nil {
		t.Fatal(err)
	}
	allowed("another daemon has taken over, with a bad version still")
	base("another daemon has taken over")
}

// TestKubernetesPods: a pod is locked from its cgroup on, and under its namespace's policy
// as soon as the API server has told of it; labels say its mode, also while it runs.
func TestKubernetesPods(t *testing.T) {
	t.Parallel()
	c := kubetest.Start(t, kubetest.Options{})
	c.InstallIstio(t)
	ns := c.Namespace(t, nil)
	n := prepare(t, nil, nil, "--kubernetes", "--kubeconfig", c.Kubeconfig(kubetest.Admin), "--node-name", "node1")
	k := kubeletOf(t, n, "kubepods")
	n.d.Capture = []string{} // what --kubernetes captures
	n.relay(t, c)
	c.Apply(t, strings.ReplaceAll(tcp("api", world.API, "7"), "{name: api}", "{name: api, namespace: "+ns+"}")+
		strings.ReplaceAll(strings.ReplaceAll(tcp("www", world.GoogleAPIs, "80"), "{name: www}", "{name: www, namespace: "+ns+"}"), "TCP", "HTTP"))
	// exportTo: what one namespace may reach another one may not.
	other := c.Namespace(t, nil)
	c.Kubectl(t, "patch", "serviceentry", "-n", ns, "api", "--type", "merge", "-p", `{"spec":{"exportTo":["."]}}`)
	k.mkdir("kubepods")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	early := k.container(podA, podcgroup.BestEffort, 1)
	k.isUnknown("a pod that the API server has not told of", podA, early)

	pod := func(ns, name string) (*core.Pod, *world.Cgroup) {
		t.Helper()
		p := c.Pod(t, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: ns, Name: name}})
		return p, k.container(string(p.UID), string(p.Status.QOSClass), len(name))
	}
	_, web := pod(ns, "web")
	k.await("the pod is known", has(ns+"/web"))
	k.isShop("a pod", web)
	_, stranger := pod(other, "stranger")
	k.await("the other pod is known", has(other+"/stranger"))
	if p := k.probe(t, stranger, "lookup", world.API); len(p.Addrs) != 0 {
		t.Errorf("another namespace: %+v", p)
	}
	free := func(cg *world.Cgroup) func() bool {
		return func() bool { return k.probe(t, cg, "dial", hostPort(world.StrangerV6, 443)).Error == "" }
	}
	c.Kubectl(t, "label", "ns", other, "egressd.dev/mode=off")
	eventually(t, soon, "the namespace is in mode off", free(stranger))
	k.isFree("mode off", stranger)
	c.Kubectl(t, "label", "pod", "-n", other, "stranger", "egressd.dev/mode=enforce")
	eventually(t, soon, "the pod is in mode enforce", func() bool { return !free(stranger)() })
	c.DeletePod(t, other, "stranger")
	eventually(t, soon, "the pod is not known any more", func() bool { return !has(other + "/stranger")(k.status(t)) })
	k.isShop("the pod that stays", web)

	// Without an API server a daemon that starts anew knows its pods.
	eventually(t, 40*time.Second, "what is in force is saved for the next start", func() bool {
		data, err := os.ReadFile(filepath.Join(n.d.StateDir(), "last-good.json"))
		return err == nil && strings.Contains(string(data), "kubernetes:Pod/"+ns+"/web") && !strings.Contains(string(data), other+"/stranger")
	})
	c.KillAPI()
	_ = n.d.Kill() // the error says that it was killed
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.isShop("a start without an API server", web)
	k.isUnknown("a start without an API server", podA, early)
}
