// SPDX-License-Identifier: Apache-2.0

//go:build node

package nodetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// underLoad runs f while a pod asks for what is allowed and another knocks at
// what is not. No request may fail, and nothing escape.
func underLoad(t *testing.T, n *Node, ns string, f func()) {
	t.Helper()
	n.Apply(t, Pod{Namespace: ns, Name: "load", Once: true, Command: []string{"load", allowed}}.YAML()+
		Pod{Namespace: ns, Name: "knock", Once: true, Command: append([]string{"knock"}, doors...)}.YAML())
	n.WaitReady(t, ns, "load", "knock")
	started(t, n, ns, "load", 20*time.Second)
	load := n.Container(t, ns, "load")
	n.nothingEscapes(t, func() {
		f()
		before := n.World.GoogleAPIs.Hits()
		Eventually(t, 20*time.Second, func() error { return more(n.World.GoogleAPIs.Hits(), before) })
		n.Interrupt(t, load)
		n.WaitEnded(t, ns, "load")
		n.MustKubectl(t, "-n", ns, "delete", "pod", "knock", "--grace-period=0", "--force")
	})
	if out := n.MustKubectl(t, "-n", ns, "logs", "load"); !strings.Contains(out, ", failed 0") {
		t.Errorf("the load ends with %s", out[max(0, len(out)-1000):])
	}
}

// TestAPIServerAwayEnforced: without the API server what was allowed stays allowed and
// what was not stays denied, also by an egressd that starts meanwhile. A change
// that comes when it is back holds.
func TestAPIServerAwayEnforced(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	n.RunPod(t, Pod{Namespace: ns, Name: "client"})
	underLoad(t, n, ns, func() {
		if err := n.Kill("kube-apiserver"); err != nil {
			t.Fatal(err)
		}
		defer n.startAPI(t)
		before := n.World.GoogleAPIs.Hits()
		Eventually(t, 60*time.Second, func() error { return more(n.World.GoogleAPIs.Hits(), before+100) })
	})
	n.Apply(t, Pod{Namespace: ns, Name: "asks", Command: []string{"load", allowed}}.YAML()+
		Pod{Namespace: ns, Name: "knocks", Command: append([]string{"knock"}, doors...)}.YAML())
	n.WaitReady(t, ns, "asks", "knocks")
	// A pod that the last good policy has not would be unknown.
	Eventually(t, 40*time.Second, func() error { return n.has("var/lib/egressd/last-good.json", "/"+ns+"/asks\"") })
	n.nothingEscapes(t, func() {
		if err := n.Kill("kube-apiserver"); err != nil {
			t.Fatal(err)
		}
		defer n.startAPI(t)
		n.killEgressd(t)
		before := n.World.GoogleAPIs.Hits()
		Eventually(t, 60*time.Second, func() error { return more(n.World.GoogleAPIs.Hits(), before+100) })
	})
	n.MustKubectl(t, "-n", ns, "delete", "pod", "knocks", "--grace-period=0", "--force")
	n.Apply(t, strings.ReplaceAll(api2, "NAMESPACE", ns))
	Eventually(t, 30*time.Second, func() error { return n.Get(ns, "client", "http://"+world.API2+"/") })
	n.mayAll(t)
}

// startAPI starts the API server again, also for the tests after one that failed.
func (n *Node) startAPI(t *testing.T) {
	t.Helper()
	if err := n.Start("kube-apiserver"); err != nil {
		t.Error(err)
	}
}

// killEgressd ends the daemon at once, and waits until the kubelet has started
// another one.
func (n *Node) killEgressd(t *testing.T) {
	t.Helper()
	before, err := n.egressd()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Run("kill", "-9", before); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 60*time.Second, func() error {
		now, err := n.egressd()
		if err == nil && now == before {
			err = fmt.Errorf("egressd is still process %s", before)
		}
		return err
	})
}

// egressd is the process of the daemon, by what the runtime says.
func (n *Node) egressd() (pid string, err error) {
	out, err := n.Run("ctr", "-n", "k8s.io", "tasks", "ls")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "RUNNING" {
			continue
		}
		if comm, err := n.Run("cat", "/proc/"+fields[1]+"/comm"); err == nil && strings.TrimSpace(comm) == "egressd" {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("no egressd runs:\n%s", out)
}

// mayAll fails the test if the API server refuses the daemon something.
func (n *Node) mayAll(t *testing.T) {
	t.Helper()
	var log string
	Eventually(t, 60*time.Second, func() (err error) { // a pod that ends meanwhile is not found any more
		log, err = n.Kubectl("", "-n", system, "logs", "-l", "app.kubernetes.io/name=egressd", "--tail=-1")
		return err
	})
	for line := range strings.Lines(log) {
		if strings.Contains(line, "is forbidden") {
			t.Errorf("its roles are too little: %s", line)
		}
	}
}

// egressds are all processes of egressd on the node, in pods and outside of them.
func (n *Node) egressds() ([]string, error) {
	out, err := n.Run("pgrep", "-x", "egressd")
	return strings.Fields(out), err
}

// direct lets TCP to the API's port 80 go straight, which nobody has to look into.
const direct = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: direct, namespace: NAMESPACE}
spec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: tcp, protocol: TCP}], exportTo: ["."]}
`

// TestKilledUnderLoad: a killed daemon is back within the time that the kubelet
// takes. Meanwhile connections that need neither its proxy nor its DNS go on, open
// ones and new ones to addresses that are known, whether they go straight or by
// the names that they say (TLS), without one failure; the others are refused until it
// is back, and nothing escapes.
func TestKilledUnderLoad(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	n.Apply(t, strings.ReplaceAll(direct, "NAMESPACE", ns))
	loads := map[string]string{"straight": "http://" + world.API + "/", "tls": "https://" + world.GoogleAPIs + "/"}
	yaml := Pod{Namespace: ns, Name: "client"}.YAML() +
		Pod{Namespace: ns, Name: "proxied", Once: true, Command: []string{"load", allowed}}.YAML() +
		Pod{Namespace: ns, Name: "knock", Command: append([]string{"knock"}, doors...)}.YAML()
	for name, url := range loads {
		yaml += Pod{Namespace: ns, Name: name, Once: true, Command: []string{"load", "-known", url}}.YAML()
	}
	n.Apply(t, yaml)
	n.WaitReady(t, ns, "client", "proxied", "knock", "straight", "tls")
	for _, name := range []string{"straight", "tls", "proxied"} {
		started(t, n, ns, name, 20*time.Second)
	}
	// What a daemon has learned in its last second is lost when it is killed.
	Eventually(t, 10*time.Second, func() error {
		return n.has("run/egressd/learned.json", strconv.Quote(ns+"/straight"), strconv.Quote(ns+"/tls"))
	})
	n.nothingEscapes(t, func() {
		before := n.World.API.Hits()
		n.killEgressd(t)
		if err := n.rollout(); err != nil {
			t.Fatal(err)
		}
		Eventually(t, 30*time.Second, func() error { return n.Get(ns, "client", allowed) })
		if err := more(n.World.API.Hits(), before); err != nil {
			t.Errorf("nobody asked meanwhile: %v", err)
		}
		n.MustKubectl(t, "-n", ns, "delete", "pod", "knock", "--grace-period=0", "--force")
	})
	ended := func(name string) string {
		n.Interrupt(t, n.Container(t, ns, name))
		n.WaitEnded(t, ns, name)
		return n.MustKubectl(t, "-n", ns, "logs", name)
	}
	for name := range loads {
		if out := ended(name); !strings.Contains(out, ", failed 0") {
			t.Errorf("%s begins to fail with %s\nand ends with %s", name, out[:min(len(out), 600)], out[max(0, len(out)-600):])
		}
	}
	// The twin: the daemon was away long enough to be missed.
	if out := ended("proxied"); strings.Contains(out, ", failed 0") {
		t.Errorf("by the proxy nothing failed: %s", out)
	}
	n.mayAll(t)
}

// has is nil if a file of the node has all these words.
func (n *Node) has(file string, words ...string) error {
	root, err := n.Root()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(root, file))
	for _, w := range words {
		if err == nil && !strings.Contains(string(text), w) {
			err = fmt.Errorf("%s has no %s", file, w)
		}
	}
	return err
}

// TestRebootEnforced: a node that lost its power becomes ready with egressd, and its
// pods are held from their first packet, if egressd-boot.service starts before the
// kubelet. Without it they are not until the DaemonSet's pod has started: that
// is known, and counted.
func TestRebootEnforced(t *testing.T) {
	n := withEgressd(t)
	if err := n.HoldAtBoot(); err != nil {
		t.Fatal(err)
	}
	ns := n.Namespace(t, "enforce")
	n.Apply(t, Pod{Namespace: ns, Name: "client"}.YAML()+Pod{Namespace: ns, Name: "knock", Command: append([]string{"knock"}, doors...)}.YAML())
	n.WaitReady(t, ns, "client", "knock")
	reboot := func() {
		if err := n.Reboot(); err != nil {
			t.Fatal(err)
		}
		Eventually(t, 2*time.Minute, func() error { return n.Get(ns, "client", allowed) })
		n.WaitReady(t, ns, "knock")
		if err := n.rollout(); err != nil {
			t.Fatal(err)
		}
	}
	n.nothingEscapes(t, reboot)
	Eventually(t, 30*time.Second, func() error { // only the DaemonSet's goes on
		running, err := n.egressds()
		if err == nil && len(running) != 1 {
			err = fmt.Errorf("%d processes of egressd run", len(running))
		}
		return err
	})
	if err := n.LeaveAtBoot(); err != nil {
		t.Fatal(err)
	}
	before := n.escaped()
	reboot()
	if got := n.escaped() - before; got == 0 {
		t.Error("without egressd-boot.service nothing escaped: docs/KUBERNETES.md says that packets do, and the test before proves nothing")
	} else {
		t.Logf("without egressd-boot.service %d packets left the node", got)
	}
	n.nothingEscapes(t, func() {
		if err := n.Denied(ns, "client", "http://"+doors[0]+"/"); err != nil {
			t.Error(err)
		}
	})
	n.MustKubectl(t, "-n", ns, "delete", "pod", "knock", "--grace-period=0", "--force")
}

// kept is what the kernel keeps for pods.
type kept struct{ cgroups, pins, entries int }

// mapEntries are the entries of the tables that have some for each workload.
var mapEntries = regexp.MustCompile(`^egressd_map_entries\{map="egd_(?:workloads|shares|ifaces|devices)"\} (\d+)$`)

// kept counts cgroups below kubepods, what is pinned in the node's BPF file
// system (programs, links, maps), and the entries of workloads.
func (n *Node) kept(t *testing.T) (k kept) {
	t.Helper()
	root, err := n.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, tree := range []string{"sys/fs/cgroup/unified/kubepods", "sys/fs/cgroup/kubepods"} {
		err := filepath.WalkDir(filepath.Join(root, tree), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				k.cgroups++
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err = filepath.WalkDir(filepath.Join(root, "sys/fs/bpf"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			k.pins++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(n.metrics(t)) {
		m := mapEntries.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		count, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		k.entries += count
	}
	return k
}

// metrics are the daemon's.
func (n *Node) metrics(t *testing.T) string {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return n.World.Node.Dial(ctx, network, netip.MustParseAddrPort(addr))
	}}
	res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get("http://127.0.0.1:15020/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s: %v", res.Status, err)
	}
	return string(text)
}

// TestChurn: 200 pods that come and go leave no cgroup, no link and no entry
// of a map behind.
func TestChurn(t *testing.T) {
	const rounds, pods = 5, 40
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	Eventually(t, 60*time.Second, func() error { // pods of earlier tests
		out, err := n.Kubectl("", "get", "namespaces", "-o", "jsonpath={.items[*].status.phase}")
		if err == nil && strings.Contains(out, "Terminating") {
			err = errors.New("namespaces are being removed")
		}
		return err
	})
	before := n.kept(t)
	for range rounds {
		var yaml strings.Builder
		var names []string
		for i := range pods {
			names = append(names, "p"+strconv.Itoa(i))
			yaml.WriteString(Pod{Namespace: ns, Name: names[i], Label: "churn"}.YAML())
		}
		n.Apply(t, yaml.String())
		n.WaitReady(t, ns, names...)
		if k := n.kept(t); k.cgroups < before.cgroups+pods || k.entries <= before.entries {
			t.Fatalf("with %d pods there are %+v, without %+v: they are not counted", pods, k, before)
		}
		n.MustKubectl(t, "-n", ns, "delete", "pod", "-l", "app=churn", "--timeout=120s")
	}
	Eventually(t, 30*time.Second, func() error {
		if after := n.kept(t); after != before {
			return fmt.Errorf("the pods left %+v; before there were %+v", after, before)
		}
		return nil
	})
}
