// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// leaveScript tries to leave the cgroup $1 for each of the others, as who owns it, and to
// go on in one that it makes there; then it dials.
const leaveScript = `import os, socket, sys
own, others, addrs = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
if sys.argv[0]: os.setuid(65534)
def enter(at):
    try:
        f = os.open(at + "/cgroup.procs", os.O_WRONLY)
        os.write(f, b"0")
        return True
    except OSError: return False
print("left:", [at for at in others if enter(at)])
os.makedirs(own + "/kubepods/burstable", exist_ok=True)
print("inside:", enter(own + "/kubepods/burstable"))
out = []
for addr in addrs:
    try: socket.create_connection((addr, 443), 3); out.append(addr)
    except OSError: pass
print("out:", out)`

// TestKubepodsLeave: who owns the cgroup of its container, as in a pod with a user namespace or a
// privileged one that sees its own tree alone, may make cgroups in it and stays what it is; it
// neither gets out nor becomes another pod. The twin is a process that is in no pod.
func TestKubepodsLeave(t *testing.T) {
	t.Parallel()
	k := kubeletOf(t, prepare(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil), "kubepods")
	a, free := k.container(podA, podcgroup.Burstable, 1), k.container(podB, podcgroup.Burstable, 2)
	k.describe("web "+podA+" Burstable", "free "+podB+" Burstable off")
	if err := k.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.isFree("the other pod", free)
	delegate(t, a.Path())
	others := strings.Join([]string{free.Path(), filepath.Dir(a.Path()), filepath.Join(k.d.Root.Path(), "kubepods"), k.in.Path(), k.d.Root.Path()}, ",")
	attempt := func(cg *world.Cgroup, own string) string {
		t.Helper()
		e := k.run(t, cg, python(t), "-c", "import sys; sys.argv[0] = 'nobody'\n"+leaveScript, own, others, world.StrangerV4, world.StrangerV6)
		if e.code != 0 {
			t.Fatalf("%+v", e)
		}
		return e.stdout
	}
	k.noWire(t, func() {
		if got := attempt(a, a.Path()); got != "left: []\ninside: True\nout: []\n" {
			t.Errorf("the owner of the container's cgroup:\n%s", got)
		}
	}, world.StrangerV4, world.StrangerV6)
	// Root in a container that sees its own tree alone.
	own := t.TempDir()
	inner := k.container(podA, podcgroup.Burstable, 3)
	k.noWire(t, func() {
		e := k.run(t, inner, "unshare", "--cgroup", "--mount", "sh", "-ec",
			`mount -t cgroup2 own "$0"; umount -l "$1"; exec "$2" -c "import sys; sys.argv[0] = ''`+"\n"+strings.ReplaceAll(leaveScript, `"`, `\"`)+`" "$0" "$0/..,$1" "$3" "$4"`,
			own, mount(t), python(t), world.StrangerV4, world.StrangerV6)
		if e.code != 0 || e.stdout != "left: []\ninside: True\nout: []\n" {
			t.Errorf("root in a container with its own tree: %+v", e)
		}
	}, world.StrangerV4, world.StrangerV6)
	outside := childOf(t, k.d.Root, "outside")
	delegate(t, outside.Path())
	if got := attempt(outside, outside.Path()); !strings.Contains(got, world.StrangerV4+"', '"+world.StrangerV6) {
		t.Errorf("who is in no pod:\n%s", got)
	}
}

// frameScript sends datagrams past the IP stack, in both families, with and without
// PACKET_QDISC_BYPASS: DEVICE MAC SOURCE4 DESTINATION4 SOURCE6 DESTINATION6.
const frameScript = `import socket, struct, sys
device, mac, s4, d4, s6, d6 = sys.argv[1:]
def summed(b):
    t = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while t > 0xffff: t = (t & 0xffff) + (t >> 16)
    return ~t & 0xffff
def udp(a, b):
    u = struct.pack("!HHHH", 4444, 443, 12, 0) + b"data"
    c = summed(a + b + struct.pack("!II", 17, len(u)) + u)
    return u[:6] + struct.pack("!H", c) + u[8:]
a, b = socket.inet_aton(s4), socket.inet_aton(d4)
h = struct.pack("!BBHHHBBH", 0x45, 0, 32, 1, 0, 64, 17, 0) + a + b
v4 = h[:10] + struct.pack("!H", summed(h)) + h[12:] + udp(a, b)
a, b = socket.inet_pton(socket.AF_INET6, s6), socket.inet_pton(socket.AF_INET6, d6)
v6 = struct.pack("!IHBB", 6 << 28, 12, 17, 64) + a + b + udp(a, b)
for bypass in (0, 1):
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as s:
        if bypass: s.setsockopt(263, 20, 1)
        for p, t in ((v4, 0x0800), (v6, 0x86dd)):
            s.sendto(p, (device, t, 0, 0, bytes.fromhex(mac.replace(":", ""))))`

// TestKubepodsFrames: frames of packet sockets, which a runtime lets containers make, end at the
// node's end of the pod's veth, unless the pod is in mode off.
func TestKubepodsFrames(t *testing.T) {
	t.Parallel()
	var pods []*world.Pod
	n := prepare(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, func(w *world.World) {
		var err error
		if pods, err = w.AddPods(1, false); err != nil {
			t.Fatal(err)
		}
	})
	k := kubeletOf(t, n, "kubepods")
	web, unknown, free := k.container(podA, podcgroup.Burstable, 1), k.container(podB, podcgroup.Burstable, 2), k.container(podC, podcgroup.Burstable, 3)
	k.describe("web "+podA+" Burstable", "free "+podC+" Burstable off")
	shown := k.run(t, nil, "ip", "-o", "link", "show", "pod1-0").stdout
	_, mac, _ := strings.Cut(shown, "link/ether ")
	mac, _, ok := strings.Cut(mac, " ")
	if !ok {
		t.Fatalf("no hardware address: %s", shown)
	}
	pod := pods[0]
	seen := func() (datagrams int) {
		for p, count := range k.Wire() {
			if p.Port == 443 && (p.Dst == netip.MustParseAddr(world.StrangerV4) || p.Dst == netip.MustParseAddr(world.StrangerV6)) {
				datagrams += count
			}
		}
		return datagrams
	}
	send := func(cg *world.Cgroup) {
		t.Helper()
		c := pod.Client(t.Context(), cg, python(t), "-c", frameScript, "eth0", mac, pod.V4.String(), world.StrangerV4, pod.V6.String(), world.StrangerV6)
		if e := finish(t, c); e.code != 0 {
			t.Fatalf("%+v", e)
		}
	}
	// goes waits until the four frames of one run have left.
	goes := func(when string, cg *world.Cgroup) {
		t.Helper()
		before := seen()
		send(cg)
		eventually(t, soon, "frames of "+when, func() bool { return seen() == before+4 })
	}
	goes("a pod without egressd", web)
	if err := k.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, cg := range map[string]*world.Cgroup{"shop/web": web, "unknown-pod": unknown} {
		before := seen()
		send(cg)
		k.event(t, "frames of "+name, func(e flow.Event) bool { return !e.Allowed && e.Reason == policy.ReasonFrame && e.Workload == name })
		if got := seen() - before; got != 0 {
			t.Errorf("%s: %d frames got out", name, got)
		}
	}
	goes("a pod in mode off", free)
	goes("who is in no pod", nil)
	if p := (inPod{n, pod}).probe(t, web, "lookup", world.API); len(p.Addrs) != 2 {
		t.Errorf("what is allowed: %+v", p)
	}
	if p := (inPod{n, pod}).probe(t, web, "dial", n.Echo6.Addr.String()); p.Error != "" {
		t.Errorf("what is allowed: %+v", p)
	}
}
