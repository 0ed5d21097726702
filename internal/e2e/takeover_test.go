// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/world"
)

// viaName is a service whose endpoint is a name, so that the forwarding core
// dials it.
const (
	via4 = "198.18.7.7"
	via6 = "fd00:7::7"
)

const takeoverPolicy = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: via}
spec:
  hosts: [stream.internal]
  addresses: [` + via4 + `, "` + via6 + `"]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: DNS
  endpoints: [{address: ` + world.API + `}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [` + world.API + `]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: DNS
`

// takeoverNode is a node that is busy.
func takeoverNode(t *testing.T, args ...string) *node {
	t.Helper()
	config := seed(t, "googleapis.yaml")
	config["via.yaml"] = takeoverPolicy
	n := prepare(t, config, nil, args...)
	return n
}

// busy starts a client that asks and requests all the time.
func (n *node) busy(t *testing.T) *knocking {
	t.Helper()
	c := n.Client(t.Context(), n.in, probe, "busy", hostPort(world.ResolverV4, 53), world.API, world.GoogleAPIs,
		hostPort(n.GoogleAPIs.V4.String(), 80), hostPort(n.GoogleAPIs.V6.String(), 80))
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c.Stdout = &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return &knocking{line: &line{in: in}, c: c}
}

// ended ends the client and says what went wrong for it.
func (k *knocking) ended(t *testing.T) (rounds, failed int, what string) {
	t.Helper()
	_ = k.in.Close() // it may have ended
	if err := k.c.Wait(); err != nil {
		t.Fatal(err)
	}
	var r probed
	var count struct{ Rounds, Good int }
	text := []byte(strings.TrimPrefix(k.c.Stdout.(*bytes.Buffer).String(), "open\n"))
	if json.Unmarshal(text, &r) != nil || json.Unmarshal(text, &count) != nil || r.Error != "" {
		t.Fatalf("the busy client: %s", text)
	}
	return count.Rounds, count.Rounds - count.Good, r.Text
}

// TestTakeover: one daemon after the other takes over, of two versions with
// other tables, while clients ask and connect all the time: nothing fails,
// nothing is cut, nothing leaves that may not. The twin: a restart is noticed.
func TestTakeover(t *testing.T) {
	t.Parallel()
	binaries := buildVersions(t)
	n := takeoverNode(t, "--drain-time", "120s")
	n.d.Install(binaries[0])
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs, world.API)
	var streams []*line
	for _, addr := range []string{hostPort(via4, 7), hostPort(via6, 7), n.Echo.Addr.String(), n.Echo6.Addr.String()} {
		streams = append(streams, n.session(t, n.Client(t.Context(), n.in, probe, "session", addr)))
	}
	knocker := n.knock(t, n.in, n.Echo.Addr.String(), hostPort(world.StrangerV4, 443), hostPort(world.StrangerV6, 443))
	client := n.busy(t)
	var before []*world.Before
	n.noWire(t, func() {
		for i := range 20 {
			n.d.Install(binaries[(i+1)%2])
			b, err := n.d.Takeover(t.Context())
			if err != nil {
				t.Fatalf("takeover %d: %v", i, err)
			}
			before = append(before, b)
			if got, want := n.status(t).Version, fmt.Sprintf("v%d", (i+1)%2+1); got != want {
				t.Errorf("takeover %d: %s serves, want %s", i, got, want)
			}
			for k, s := range streams {
				if !s.echo(fmt.Sprint("takeover ", i)) {
					t.Errorf("takeover %d: stream %d was cut", i, k)
				}
			}
		}
	}, world.StrangerV4, world.StrangerV6)
	if rounds, failed, what := client.ended(t); failed > 0 || rounds < 1000 {
		t.Errorf("%d of %d attempts failed: %s", failed, rounds, what)
	} else {
		t.Logf("%d attempts, none failed", rounds)
	}
	if rounds, good := knocker.end(t); good != 0 {
		t.Errorf("%d attempts of %d rounds went through", good, rounds)
	}
	for _, s := range streams {
		_ = s.in.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i, b := range before {
		if err := b.Wait(ctx); err != nil {
			t.Errorf("daemon %d, when its streams had ended: %v", i, err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(n.d.PinDir(), "node"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "new_") || strings.HasPrefix(e.Name(), "next_") {
			t.Errorf("a pin is left: %s", e.Name())
		}
	}
	// The twin.
	client = n.busy(t)
	n.learn(t, world.API) // it has begun
	_ = n.d.Kill()
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rounds, failed, what := client.ended(t); failed == 0 {
		t.Errorf("a kill and a start went unnoticed in %d attempts", rounds)
	} else {
		t.Logf("kill and start: %d of %d failed: %s", failed, rounds, what)
	}
}

// TestTakeoverFails: an heir that cannot, or that is killed or ends before it has
// taken over, leaves all to the one that serves.
func TestTakeoverFails(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs, world.API)
	stream := n.open(t, hostPort(via4, 7))
	pid := n.status(t).PID
	if e := n.egressd(t, "run", "--config", n.d.ConfigDir(), "--cgroup", n.d.Root.Path(), "--pin-dir", n.d.PinDir()); e.code == 0 || !strings.Contains(e.stderr, "--takeover") {
		t.Errorf("a second daemon without --takeover: %+v", e)
	}
	client := n.busy(t)
	serves := func(when string) {
		t.Helper()
		eventually(t, soon, when+": the first one's admin socket is there", func() bool {
			return n.egressd(t, "status", "-o", "json").code == 0
		})
		if got := n.status(t).PID; got != pid {
			t.Errorf("%s: %d serves, not %d", when, got, pid)
		}
		if !stream.echo(when) {
			t.Errorf("%s: a stream was cut", when)
		}
		n.learn(t, world.API)
	}
	broken := filepath.Join(n.d.ConfigDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("kind: [\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := n.d.Reach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.d.Keep(b); err == nil {
		t.Error("an heir with a broken policy ended well")
	}
	if !strings.Contains(n.d.Log(), "nothing is taken over with a policy that cannot be used") {
		t.Error("the log does not say why")
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	serves("a broken policy")
	log := n.d.Log()
	if b, err = n.d.Reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the heir starts", func() bool {
		return strings.Contains(strings.TrimPrefix(n.d.Log(), log), "egressd starts")
	})
	_ = n.d.Kill() // the error says that it was killed
	n.d.Return(b)
	serves("killed at its start")
	for _, steps := range [][]handover.MessageKind{
		{},
		{handover.Hello},
		{handover.Hello, handover.Offer},
		{handover.Hello, handover.Offer, handover.Quiesce},
		{handover.Hello, handover.Offer, handover.Quiesce, handover.Quiet},
	} {
		diesAfter(t, filepath.Join(n.d.StateDir(), handover.SocketName), steps...)
		serves(fmt.Sprintf("an heir that dies after %v", steps))
	}
	if rounds, failed, what := client.ended(t); failed > 0 || rounds < 100 {
		t.Errorf("%d of %d attempts failed: %s", failed, rounds, what)
	}
	// And after all that one does take over; the first one dies meanwhile.
	if _, err := n.d.Takeover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.status(t).PID == pid {
		t.Error("the first one serves still")
	}
}

// TestTakeoverTightened: what goes on in the daemon before is judged by the
// policy of today, not by the one of the takeover.
func TestTakeoverTightened(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t, "--drain-time", "120s")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.API)
	denied, allowed := n.open(t, hostPort(via4, 7)), n.open(t, n.Echo6.Addr.String())
	before, err := n.d.Takeover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !denied.echo("taken over") || !allowed.echo("taken over") {
		t.Fatal("a stream was cut")
	}
	_, rest, _ := strings.Cut(takeoverPolicy, "---\n")
	n.write(t, "via.yaml", rest)
	eventually(t, soon, "the stream that is denied now is cut", func() bool { return !denied.echo("tightened") })
	if !allowed.echo("tightened") {
		t.Error("a stream that is allowed was cut")
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := before.Wait(ctx); err != nil {
		t.Errorf("the daemon before, with nothing open any more: %v", err)
	}
}

// TestUnloadAfterTakeover: unload opens at once, whatever goes on in the daemon
// before.
func TestUnloadAfterTakeover(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t, "--drain-time", "120s")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.API)
	stream := n.open(t, hostPort(via6, 7))
	before, err := n.d.Takeover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.isOpen(t, "taken over", n.in, false)
	if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
		t.Fatalf("unload: %+v", e)
	}
	n.isOpen(t, "unloaded", n.in, true)
	_ = stream.in.Close()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := before.Wait(ctx); err != nil {
		t.Errorf("the daemon before: %v", err)
	}
}

// TestTakeoverStays: with --stay a daemon that another has taken over from does
// nothing more, and ends when it is told to, as a container must that would be
// started again. The twin: without it, it ends by itself.
func TestTakeoverStays(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t, "--stay")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.API)
	stays, err := n.d.Takeover(t.Context(), "--stay=false")
	if err != nil {
		t.Fatal(err)
	}
	ends, err := n.d.Takeover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := ends.Wait(ctx); err != nil {
		t.Errorf("without --stay: %v", err)
	}
	if stays.Ended() {
		t.Error("with --stay it ended")
	}
	n.isOpen(t, "taken over twice", n.in, false)
	if err := stays.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := stays.Wait(ctx); err != nil {
		t.Errorf("with --stay, told to end: %v", err)
	}
	n.isOpen(t, "the one before has ended", n.in, false)
}

// TestTakeoverReturns: with --stay a daemon that another has taken over from serves again
// when that one has ended, as the first pod must whose successor is deleted before it is
// ready; and it does not when all is unloaded. The twin: what needs the proxy is refused
// while nobody serves.
func TestTakeoverReturns(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t, "--stay")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.API)
	for _, end := range []struct {
		how string
		end func() error
	}{{"killed", n.d.Kill}, {"told to end", n.d.Terminate}} {
		before, err := n.d.Takeover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := end.end(); err != nil {
			t.Fatalf("%s: %v", end.how, err)
		}
		n.isOpen(t, end.how+", nobody serves yet", n.in, false)
		n.d.Return(before)
		if err := n.d.WaitReady(t.Context()); err != nil {
			t.Fatalf("%s: %v", end.how, err)
		}
		n.isOpen(t, end.how+", it serves again", n.in, false)
		if !n.open(t, hostPort(via4, 7)).echo(end.how) || !n.open(t, hostPort(via6, 7)).echo(end.how) {
			t.Errorf("%s: it does not serve", end.how)
		}
	}
	before, err := n.d.Takeover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
		t.Fatalf("unload: %+v", e)
	}
	n.isOpen(t, "unloaded", n.in, true)
	if err := before.Stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := before.Wait(ctx); err != nil {
		t.Errorf("it was to do nothing but to end: %v", err)
	}
	n.isOpen(t, "still unloaded", n.in, true)
}

// TestTakeoverInside: daemons that are captured themselves, one in the place of
// the other, are free of the policy, both of them.
func TestTakeoverInside(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t)
	inside := []string{"sh", "-c", `mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec "$@"`}
	n.d.Prefix = append(inside, filepath.Join(n.d.Root.Path(), "one.service"))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs, world.API)
	stream := n.open(t, hostPort(via4, 7))
	client := n.busy(t)
	for _, name := range []string{"two.service", "three.service"} {
		n.d.Prefix = append(inside[:3:3], filepath.Join(n.d.Root.Path(), name))
		if _, err := n.d.Takeover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !stream.echo(name) {
			t.Errorf("%s: a stream was cut", name)
		}
	}
	if rounds, failed, what := client.ended(t); failed > 0 || rounds < 100 {
		t.Errorf("%d of %d attempts failed: %s", failed, rounds, what)
	}
}

// TestTakeoverSocket: nobody but root reaches it.
func TestTakeoverSocket(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.d.StateDir(), handover.SocketName)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	dial := "import socket,sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])"
	// The state directory of the test is open to all, as is the path to it.
	for _, tt := range []struct {
		uid  string
		good bool
	}{{"0", true}, {"65534", false}} {
		out, err := exec.Command("setpriv", "--reuid", tt.uid, "--clear-groups", python(t), "-c", dial, path).CombinedOutput()
		if (err == nil) != tt.good {
			t.Errorf("uid %s: %v %s", tt.uid, err, out)
		}
	}
}

// diesAfter is an heir that ends after some steps.
func diesAfter(t *testing.T, path string, steps ...handover.MessageKind) {
	t.Helper()
	c, err := handover.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(soon))
	for _, k := range steps {
		var set *handover.SocketSet
		switch k {
		case handover.Hello, handover.Quiesce:
			err = c.Send(handover.Message{Kind: k, Protocol: handover.Protocol}, nil)
		default:
			_, set, err = c.Expect(k)
		}
		set.Close()
		if err != nil {
			t.Fatalf("%s: %v", k, err)
		}
	}
}
