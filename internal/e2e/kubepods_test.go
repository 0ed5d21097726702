// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// kubeletScript makes the cgroup $1 the root of a cgroup namespace, as a node's is, with
// the node's directory of pods' logs at its place, and goes on in the cgroup $3 below it. With
// $5 it goes on as a container does: in a cgroup namespace of its own, with its own tree
// mounted there, the node's as $6 says, and beside another process of its container.
const kubeletScript = `set -e
root=$1 mnt=$2 unit=$3 logs=$4 own=$5 options=$6; shift 6
echo 0 >"$root/cgroup.procs"
exec unshare --cgroup sh -c 'set -e
mnt=$1 unit=$2 logs=$3 own=$4 options=$5; shift 5
umount -l "$mnt"
mount -t cgroup2 cgroup2 "$mnt"
mkdir -p "$mnt/$unit"
echo 0 >"$mnt/$unit/cgroup.procs"
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p /var/log/pods
mount --bind "$logs" /var/log/pods
[ -n "$own" ] || exec "$@"
sleep 300 >/dev/null 2>&1 &
exec unshare --cgroup sh -c "set -e
mount -t cgroup2 cgroup2 \"\$0\"
[ -z \"$options\" ] || mount -o \"$options\" \"$mnt\"
exec \"\$@\"" "$own" "$@"' sh "$mnt" "$unit" "$logs" "$own" "$options" "$@"`

// kubelet is what makes pods on a node.
type kubelet struct {
	*node
	t    *testing.T
	root podcgroup.Root
	logs string
}

// kubeletOf lets the daemon's next start capture the pods of a node whose root cgroup is the
// daemon's.
func kubeletOf(t *testing.T, n *node, root podcgroup.Root) *kubelet {
	t.Helper()
	testenv.RequireTool(t, "unshare")
	k := &kubelet{node: n, t: t, root: root, logs: t.TempDir()}
	if err := os.Chmod(k.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	n.d.Capture = []string{"--pods"}
	k.place("system.slice/egressd.service", "", "")
	return k
}

// place says in which cgroup the daemon's next start is; own and options are kubeletScript's.
func (k *kubelet) place(unit, own, options string) {
	k.d.Prefix = []string{"sh", "-c", kubeletScript, "sh", k.d.Root.Path(), mount(k.t), unit, k.logs, own, options}
}

// mkdir makes cgroups below the node's root.
func (k *kubelet) mkdir(path string) {
	k.t.Helper()
	if err := os.MkdirAll(filepath.Join(k.d.Root.Path(), path), 0o755); err != nil {
		k.t.Fatal(err)
	}
}

// container makes a container's cgroup in a pod's.
func (k *kubelet) container(uid, qos string, number int) *world.Cgroup {
	k.t.Helper()
	pod := k.root.Path(uid, qos)
	k.mkdir(pod)
	name := fmt.Sprintf("%064x", number)
	if strings.HasSuffix(string(k.root), ".slice") {
		name = "cri-containerd-" + name + ".scope"
	}
	cg, err := world.MakeCgroup(filepath.Join(k.d.Root.Path(), pod, name))
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = cg.Close() }) // the pod may be gone
	return cg
}

// remove removes a pod's cgroups.
func (k *kubelet) remove(uid, qos string) {
	k.t.Helper()
	if err := cgroup.Remove(filepath.Join(k.d.Root.Path(), k.root.Path(uid, qos))); err != nil {
		k.t.Fatal(err)
	}
}

// describe tells the daemon of pods: "name uid class [mode]".
func (k *kubelet) describe(pods ...string) {
	k.t.Helper()
	var text strings.Builder
	for _, p := range pods {
		f := append(strings.Fields(p), "enforce")
		fmt.Fprintf(&text, "apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: %s, namespace: shop}\nspec: {cgroups: [%q], mode: %q}\n---\n",
			f[0], podcgroup.Path(f[1], f[2]), f[3])
	}
	k.write(k.t, "workloads.yaml", text.String())
}

// isUnknown fails the test unless a process may reach nothing, and is said to be of a pod that
// is not known.
func (k *kubelet) isUnknown(when, uid string, cg *world.Cgroup) {
	k.t.Helper()
	k.noWire(k.t, func() {
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			if p := k.probe(k.t, cg, "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
				k.t.Errorf("%s: TCP to %s: %+v", when, addr, p)
			}
			if p := k.probe(k.t, cg, "udp", hostPort(addr, 9), "x"); p.Errno != syscall.ECONNREFUSED {
				k.t.Errorf("%s: UDP to %s: %+v", when, addr, p)
			}
		}
	}, world.StrangerV4, world.StrangerV6)
	for _, s := range []*world.Server{k.Echo, k.Echo6} {
		if p := k.probe(k.t, cg, "dial", s.Addr.String()); p.Errno != syscall.ECONNREFUSED {
			k.t.Errorf("%s: what the policy allows others: %+v", when, p)
		}
	}
}

// saysUnknown fails the test unless the daemon refuses DNS and tells of the pod.
func (k *kubelet) saysUnknown(when, uid string, cg *world.Cgroup) {
	k.t.Helper()
	for _, server := range []string{world.ResolverV4, world.ResolverV6} {
		if got := k.probe(k.t, cg, "dns", "udp", hostPort(server, 53), world.API, "A"); got.Rcode != "SERVFAIL" || got.EDE != 15 {
			k.t.Errorf("%s: DNS: %+v", when, got)
		}
	}
	for _, layer := range []flow.Layer{flow.Kernel, flow.DNS} {
		e := k.event(k.t, when+": the denial", func(e flow.Event) bool {
			return !e.Allowed && e.Reason == policy.ReasonUnknownWorkload && e.Layer == layer && (layer == flow.DNS || strings.Contains(e.Detail, uid))
		})
		if e.Workload != "unknown-pod" {
			k.t.Errorf("%s: %+v", when, e)
		}
	}
}

// isShop fails the test unless a process may reach what the policy allows, and nothing else.
func (k *kubelet) isShop(when string, cg *world.Cgroup) {
	k.t.Helper()
	if p := k.probe(k.t, cg, "lookup", world.API); len(p.Addrs) != 2 {
		k.t.Errorf("%s: DNS: %+v", when, p)
	}
	for _, s := range []*world.Server{k.Echo, k.Echo6} {
		if p := k.probe(k.t, cg, "dial", s.Addr.String()); p.Error != "" {
			k.t.Errorf("%s: what is allowed: %+v", when, p)
		}
	}
	if a := k.curl(k.t, cg, "http://"+world.GoogleAPIs); a.status != 200 {
		k.t.Errorf("%s: what is proxied: %+v", when, a)
	}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if p := k.probe(k.t, cg, "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
			k.t.Errorf("%s: a stranger: %+v", when, p)
		}
	}
}

// isFree fails the test unless a process may reach everybody.
func (k *kubelet) isFree(when string, cg *world.Cgroup) {
	k.t.Helper()
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if p := k.probe(k.t, cg, "dial", hostPort(addr, 443)); p.Error != "" {
			k.t.Errorf("%s: %s: %+v", when, addr, p)
		}
	}
	k.quiet(k.t, world.StrangerV4, world.StrangerV6)
}

// awaitBound waits until the daemon has pods of these numbers and unknown ones of these UIDs.
func (k *kubelet) await(what string, done func(state) bool) {
	k.t.Helper()
	eventually(k.t, soon, what, func() bool { return done(k.status(k.t)) })
}

// has says whether a workload has a cgroup now.
func has(name string) func(state) bool {
	return func(s state) bool {
		for _, w := range s.Workloads {
			if w.Name == name {
				return true
			}
		}
		return false
	}
}

const (
	podA = "0f1b5a3e-1c2d-4e5f-8a9b-0123456789ab"
	podB = "1f1b5a3e-1c2d-4e5f-8a9b-0123456789ab"
	podC = "2f1b5a3e-1c2d-4e5f-8a9b-0123456789ab"
)

// layouts runs a test with the cgroups of each driver on a node, and in a container.
func layouts(t *testing.T, f func(t *testing.T, k *kubelet), roots ...podcgroup.Root) {
	for _, root := range roots {
		t.Run(strings.ReplaceAll(string(root), "/", "_"), func(t *testing.T) {
			t.Parallel()
			config := seed(t, "googleapis.yaml")
			config["api.yaml"] = tcp("api", world.API, "7")
			f(t, kubeletOf(t, prepare(t, config, nil), root))
		})
	}
}

// TestKubepods: pods are locked as soon as the kubelet makes their cgroup, are what their
// Workload says when there is one, and nothing else on the node is captured. All of them are in
// the node's own network namespace, as hostNetwork has it.
func TestKubepods(t *testing.T) {
	t.Parallel()
	layouts(t, func(t *testing.T, k *kubelet) {
		k.isFree("without egressd", k.container(podC, podcgroup.Burstable, 9))
		if err := cgroup.Remove(filepath.Join(k.d.Root.Path(), strings.Split(string(k.root), "/")[0])); err != nil {
			t.Fatal(err)
		}
		if err := k.d.Launch(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, clientTimeout, "the daemon says that there are no pods yet", func() bool {
			e := k.egressd(t, "status")
			return strings.Contains(e.stdout, "no kubelet has made") && strings.Contains(e.stdout, "ready: false")
		})
		k.isFree("a service of the node, before the kubelet", k.in)
		k.mkdir(string(k.root))
		if err := k.d.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		a := k.container(podA, podcgroup.Burstable, 1)
		k.isUnknown("at once", podA, a)
		k.saysUnknown("at once", podA, a)
		k.isFree("a service of the node", k.in)
		k.await("the unknown pod is named", func(s state) bool {
			return len(s.Capture.UnknownPods) == 1 && s.Capture.UnknownPods[0] == podA && s.Capture.Held
		})
		k.describe("web "+podA+" Burstable", "trial "+podB+" BestEffort audit", "free "+podC+" Guaranteed off")
		k.await("the pod is known", has("shop/web"))
		k.isShop("when it is known", a)
		k.isShop("an init container", k.container(podA, podcgroup.Burstable, 2))
		// Known before they are there.
		b, c := k.container(podB, podcgroup.BestEffort, 3), k.container(podC, podcgroup.Guaranteed, 4)
		k.await("the pod in audit mode", has("shop/trial"))
		k.await("the pod in mode off", has("shop/free"))
		k.isFree("in audit mode", b)
		k.isFree("in mode off", c)
		k.event(t, "what would be denied", func(e flow.Event) bool { return e.Workload == "shop/trial" && e.WouldDeny })
		k.isShop("beside them", a)
		// Made anew, it is another pod.
		k.remove(podA, podcgroup.Burstable)
		a = k.container(podA+"0", podcgroup.Burstable, 5)
		k.isUnknown("made anew", podA+"0", a)
		k.describe("web " + podA + "0 Burstable")
		k.await("the pod made anew is known", func(s state) bool { return has("shop/web")(s) && len(s.Capture.UnknownPods) == 2 })
		k.isShop("made anew and known", a)
		k.isUnknown("whose Workload is gone", podB, b)
	}, podcgroup.Usual...)
}

// TestKubepodsKilled: what comes while there is no daemon is denied until one has its policy;
// what was open goes on.
func TestKubepodsKilled(t *testing.T) {
	t.Parallel()
	layouts(t, func(t *testing.T, k *kubelet) {
		a := k.container(podA, podcgroup.Burstable, 1)
		k.describe("web "+podA+" Burstable", "late "+podB+" Guaranteed")
		if err := k.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.isShop("before", a)
		open4, open6 := k.openIn(t, a, k.Echo.Addr.String()), k.openIn(t, a, k.Echo6.Addr.String())
		if err := k.d.Kill(); err != nil {
			t.Fatal(err)
		}
		b := k.container(podB, podcgroup.Guaranteed, 2)
		k.isUnknown("while there is no daemon", podB, b)
		k.isFree("a service of the node, while there is no daemon", k.in)
		if !open4.echo("x") || !open6.echo("x") {
			t.Error("what was open has ended with the daemon")
		}
		if err := k.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.isShop("after a restart", b)
		if !open4.echo("y") || !open6.echo("y") {
			t.Error("what was open has ended with the restart")
		}
	}, "kubepods", "kubelet.slice/kubelet-kubepods.slice")
}

// TestKubepodsSystem: without anybody who describes pods those of system namespaces come up, by
// the kubelet's directories of logs, and no other.
func TestKubepodsSystem(t *testing.T) {
	t.Parallel()
	layouts(t, func(t *testing.T, k *kubelet) {
		k.mkdir(string(k.root))
		if err := k.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		dns, other := k.container(podA, podcgroup.Burstable, 1), k.container(podB, podcgroup.Burstable, 2)
		k.isUnknown("before its directory", podA, dns)
		for _, dir := range []string{"kube-system_dns_" + podA, "kube-system-not_dns_" + podB, "shop_kube-system_" + podC} {
			if err := os.Mkdir(filepath.Join(k.logs, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		k.await("the pod of the system namespace is known", has("kube-system/dns"))
		k.isFree("a pod of the system namespace", dns)
		k.isUnknown("another pod", podB, other)
		k.isUnknown("a pod with such a name", podC, k.container(podC, podcgroup.Burstable, 3))
		// A Workload has its way.
		k.describe("dns " + podA + " Burstable")
		k.await("the pod is under its policy", has("shop/dns"))
		k.isShop("a pod of the system namespace that is described", dns)
	}, "kubepods", "kubelet.slice/kubelet-kubepods.slice")
}

// TestKubepodsOwn: egressd in a pod is free of what it enforces, also when it starts anew in
// another container while the kernel denies it as a pod that nobody knows.
func TestKubepodsOwn(t *testing.T) {
	t.Parallel()
	layouts(t, func(t *testing.T, k *kubelet) {
		a := k.container(podA, podcgroup.Burstable, 1)
		k.describe("web " + podA + " Burstable")
		own := filepath.Join(k.root.Path(podB, podcgroup.Burstable), strings.Repeat("c", 63))
		for i, options := range []string{"remount,bind,ro", "remount,bind,ro", ""} {
			k.place(own+fmt.Sprint(i), t.TempDir(), options)
			if err := k.d.Start(t.Context()); err != nil {
				t.Fatalf("start %d: %v", i, err)
			}
			when := fmt.Sprintf("start %d", i)
			k.isShop(when, a)
			other := k.container(podC, podcgroup.Burstable, 10+i)
			k.isUnknown(when+", another pod", podC, other)
			k.isUnknown(when+", beside egressd in its pod", podB, k.container(podB, podcgroup.Burstable, 20+i))
			if k.in.Path() == "" || strings.Contains(k.d.Log(), "msg=\"egressd does not start\"") {
				t.Fatal("it did not start")
			}
			if err := k.d.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}, "kubepods", "kubelet.slice/kubelet-kubepods.slice")
}

// TestKubepodsNetns: pods with a network namespace of their own reach the proxy and DNS by the gate.
func TestKubepodsNetns(t *testing.T) {
	t.Parallel()
	config := seed(t, "googleapis.yaml")
	config["api.yaml"] = tcp("api", world.API, "7")
	var pods []*world.Pod
	n := prepare(t, config, func(w *world.World) {
		var err error
		if pods, err = w.AddPods(1, false); err != nil {
			t.Fatal(err)
		}
	})
	k := kubeletOf(t, n, "kubepods.slice")
	a := k.container(podA, podcgroup.Burstable, 1)
	if err := k.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := inPod{n, pods[0]}
	for _, server := range []string{world.ResolverV4, world.ResolverV6} {
		if got := p.probe(t, a, "dns", "udp", hostPort(server, 53), world.API, "A"); got.Rcode != "SERVFAIL" {
			t.Errorf("not known, DNS: %+v", got)
		}
	}
	if got := p.probe(t, a, "dial", k.Echo6.Addr.String()); got.Errno != syscall.ECONNREFUSED {
		t.Errorf("not known: %+v", got)
	}
	k.describe("web " + podA + " Burstable")
	k.await("the pod is known", has("shop/web"))
	for _, name := range []string{world.API, world.GoogleAPIs} {
		if got := p.probe(t, a, "lookup", name); len(got.Addrs) != 2 {
			t.Errorf("lookup of %s: %+v", name, got)
		}
	}
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		if got := p.probe(t, a, "dial", hostPort(addr, 80)); got.Peer != hostPort(addr, 80) {
			t.Errorf("proxied, %s: %+v", addr, got)
		}
	}
	for _, s := range []*world.Server{n.Echo, n.Echo6} {
		if got := p.probe(t, a, "dial", s.Addr.String()); got.Peer != s.Addr.String() {
			t.Errorf("direct, %s: %+v", s.Addr, got)
		}
	}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if got := p.probe(t, a, "dial", hostPort(addr, 443)); got.Errno != syscall.ECONNREFUSED {
			t.Errorf("a stranger: %+v", got)
		}
		if got := p.probe(t, nil, "dial", hostPort(addr, 443)); got.Error != "" {
			t.Errorf("who is not captured, in the same namespace: %+v", got)
		}
	}
}

// TestKubepodsSoon: a pod that is known before it is there has its policy milliseconds after its
// cgroup is made, on a node with many pods.
func TestKubepodsSoon(t *testing.T) {
	t.Parallel()
	k := kubeletOf(t, prepare(t, map[string]string{"api.yaml": udp("api", world.API, "7")}, nil), "kubepods")
	const count = 300
	var pods []string
	for i := range count {
		uid := fmt.Sprintf("%08x-1c2d-4e5f-8a9b-0123456789ab", i)
		pods = append(pods, fmt.Sprintf("web-%d %s Burstable", i, uid))
		k.mkdir(k.root.Path(uid, podcgroup.Burstable))
	}
	for i := range 20 {
		pods = append(pods, fmt.Sprintf("late-%d late%d BestEffort", i, i))
	}
	k.describe(pods...)
	k.mkdir(string(k.root) + "/besteffort")
	if err := k.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(k.nodePins(), "egd_workloads")
	k.await("all pods are known", has(fmt.Sprintf("shop/web-%d", count-1)))
	var took []time.Duration
	for i := range 20 {
		entries := testenv.PinnedEntries(t, table)
		begin := time.Now()
		k.mkdir(k.root.Path(fmt.Sprintf("late%d", i), podcgroup.BestEffort))
		for testenv.PinnedEntries(t, table) == entries {
			if time.Since(begin) > soon {
				t.Fatalf("pod %d is not known after %v", i, soon)
			}
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("in the kernel's table after %v, half of them after %v, at most %v", took[0], took[len(took)/2], took[len(took)-1])
	all := time.Duration(0)
	for _, d := range took {
		all += d
	}
	// Who only looks again each two seconds takes a second on average.
	if all > 10*time.Second {
		t.Errorf("%d pods were known after %v in all: nobody was told of them", len(took), all)
	}
}

// TestKubepodsTakeover: the daemon of one pod takes over from that of another, as when a
// DaemonSet is rolled, and both are free of what they enforce.
func TestKubepodsTakeover(t *testing.T) {
	t.Parallel()
	config := seed(t, "googleapis.yaml")
	config["api.yaml"] = tcp("api", world.API, "7")
	k := kubeletOf(t, prepare(t, config, nil, "--drain-time", "1s"), "kubepods.slice")
	a := k.container(podA, podcgroup.Burstable, 1)
	k.describe("web " + podA + " Burstable")
	for i, uid := range []string{podB, podC, podB} {
		k.place(filepath.Join(k.root.Path(uid, podcgroup.Burstable), strings.Repeat("c", 63)+fmt.Sprint(i)), t.TempDir(), "remount,bind,ro")
		when := fmt.Sprintf("daemon %d", i)
		if i == 0 {
			if err := k.d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			k.isShop(when, a)
			continue
		}
		open := k.openIn(t, a, k.Echo6.Addr.String())
		before, err := k.d.Takeover(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		k.isShop(when, a)
		if err := before.Wait(t.Context()); err != nil {
			t.Errorf("%s: the one before: %v", when, err)
		}
		k.isShop(when+", alone", a)
		if !open.echo("x") {
			t.Errorf("%s: a connection was cut", when)
		}
	}
}

// TestKubepodsAudit: in audit mode a pod that is not known passes and is told of; one that is
// known to be in enforce mode does not.
func TestKubepodsAudit(t *testing.T) {
	t.Parallel()
	k := kubeletOf(t, prepare(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil, "--mode", "audit"), "kubepods.slice")
	web, unknown := k.container(podA, podcgroup.Burstable, 1), k.container(podB, podcgroup.BestEffort, 2)
	k.describe("web " + podA + " Burstable")
	if err := k.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.isFree("a pod that is not known", unknown)
	if p := k.probe(t, unknown, "lookup", world.API2); len(p.Addrs) == 0 {
		t.Errorf("DNS of a pod that is not known: %+v", p)
	}
	for _, layer := range []flow.Layer{flow.Kernel, flow.DNS} {
		k.event(t, "what would be denied", func(e flow.Event) bool {
			return e.WouldDeny && e.Allowed && e.Reason == policy.ReasonUnknownWorkload && e.Layer == layer
		})
	}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if p := k.probe(t, web, "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("a pod in enforce mode: %+v", p)
		}
	}
}
