// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

const (
	clientTimeout = 30 * time.Second
	soon          = 5 * time.Second
	every         = 5 * time.Millisecond
)

// arena is a little internet with one daemon, which all attacks share.
type arena struct {
	*world.World
	t testing.TB
	d *world.Daemon
	// in is captured, outside is not; other is a captured workload that may
	// reach theirs.example, whose address is the stranger's.
	in, outside, other *world.Cgroup
	// audited and freed are captured workloads whose mode is changed to enforce.
	audited, freed *world.Cgroup
	interpreter    string
	// words are what rows may use in arguments, for the captured and for the
	// others. They have strangers of their own: the last packets of a
	// connection come late, and must not be taken for the next attacker's.
	words, twinWords *strings.Replacer
	// free is the stranger of who is not captured, and twin says that it is
	// the one that counts now.
	free *world.Origin
	twin bool
	// shared has the address of two names of which one is allowed, tls is a
	// server on an allowed HTTPS port that echoes what it gets.
	shared, aliased *world.Origin
	// thief is the server of another author of policy.
	thief *world.Origin
	// app is the site behind the node's gateway.
	app *world.Origin
	// pods are on one bridge; impostor has the gate's address elsewhere.
	pods     [2]*world.Pod
	impostor *world.Server
	// pod and vm are behind guarded interfaces, their twins are not.
	pod, freePod *world.Neighbour
	vm, freeVM   *machine.Machine
	tls          *world.Server
}

// newArena builds everything and starts nothing.
func newArena(t *testing.T) *arena {
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	testenv.RequireTun(t)
	a := &arena{World: testenv.World(t), t: t, interpreter: "/usr/bin/python3"}
	if _, err := os.Stat(a.interpreter); err != nil {
		testenv.RequireTool(t, "python3")
		a.interpreter = "python3"
	}
	config, err := os.ReadFile("testdata/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tight, err := os.ReadFile("testdata/tight.yaml")
	if err != nil {
		t.Fatal(err)
	}
	a.populate()
	a.addPods()
	a.addNeighbours()
	theirs, flags := a.addAuthors()
	flags = append(flags, visitorFlags...)
	files := map[string][]byte{"00-authors.yaml": theirs, "visitors.yaml": a.addVisitors(), "policy.yaml": config, "tight.yaml": tight, "modes.yaml": modes("audit", "off")}
	// REFUSED tells a denial from a name that does not exist.
	flags = append(flags, "--dns-denied-rcode", "REFUSED", "--interfaces", "pod0,vm0", "--status-address", ":15020", "--health-address", ":15021")
	if a.d, err = a.NewDaemon(egressd, files, flags...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the daemon's log:\n%s", a.d.Log()[max(0, len(a.d.Log())-8000):])
		}
		if err := a.d.Stop(); err != nil {
			t.Errorf("stopping egressd: %v", err)
		}
	})
	for _, c := range []struct {
		to   **world.Cgroup
		make func() (*world.Cgroup, error)
	}{
		{&a.in, func() (*world.Cgroup, error) { return a.d.Root.Child("attacker") }},
		{&a.outside, func() (*world.Cgroup, error) { return world.NewCgroup("outside") }},
		{&a.other, func() (*world.Cgroup, error) { return a.d.Root.Child("other") }},
		{&a.audited, func() (*world.Cgroup, error) { return a.d.Root.Child("audited") }},
		{&a.freed, func() (*world.Cgroup, error) { return a.d.Root.Child("freed") }},
	} {
		cg, err := c.make()
		if err != nil {
			t.Fatal(err)
		}
		*c.to = cg
		t.Cleanup(func() {
			if err := cg.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	a.fill()
	return a
}

// must ends the test on an error.
func (a *arena) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// fill sets the words that rows may use in arguments.
func (a *arena) fill() {
	words := []string{
		"{R4}", world.ResolverV4, "{R6}", world.ResolverV6, "{O4}", world.OtherResolverV4,
		"{G4}", a.GoogleAPIs.V4.String(), "{G6}", a.GoogleAPIs.V6.String(), "{google}", world.GoogleAPIs,
		"{API4}", a.API.V4.String(), "{API6}", a.API.V6.String(), "{API2}", a.API2.V4.String(),
		"{S4}", a.shared.V4.String(), "{T4}", a.tls.Addr.Addr().String(),
		"{outside}", a.outside.Path(), "{net}", a.Net.Path(), "{N4}", world.NodeV4,
		"{pod1}", a.pods[0].Path(), "{pod2}", a.pods[1].Path(),
	}
	gateway, site := a.visitorWords()
	a.words = strings.NewReplacer(append(slices.Concat(words, gateway), "{A4}", world.StrangerV4, "{A6}", world.StrangerV6,
		"{P4}", a.pod.V4, "{P6}", a.pod.V6, "{mac}", a.pod.MAC.String())...)
	a.twinWords = strings.NewReplacer(append(slices.Concat(words, site), "{A4}", a.free.V4.String(), "{A6}", a.free.V6.String(),
		"{P4}", a.freePod.V4, "{P6}", a.freePod.V6, "{mac}", a.freePod.MAC.String())...)
}

// python runs the attacker; cg nil: not captured.
func (a *arena) python(cg *world.Cgroup, args ...string) string {
	a.t.Helper()
	return a.pythonIn(a.Node, cg, cg == nil, args...)
}

// pythonIn runs the attacker in a namespace; twin: towards the other stranger.
func (a *arena) pythonIn(ns *world.Netns, cg *world.Cgroup, twin bool, args ...string) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), clientTimeout)
	defer cancel()
	c := a.commandIn(ctx, ns, cg, twin, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		a.t.Fatalf("%v: %v", args, err)
	}
	if stderr.Len() > 0 {
		a.t.Errorf("%v: %s", args, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

func (a *arena) command(ctx context.Context, cg *world.Cgroup, args ...string) *world.Cmd {
	return a.commandIn(ctx, a.Node, cg, cg == nil, args...)
}

func (a *arena) commandIn(ctx context.Context, ns *world.Netns, cg *world.Cgroup, twin bool, args ...string) *world.Cmd {
	path, err := filepath.Abs("testdata/attack.py")
	a.must(err)
	line, words := []string{"-IBE", path}, a.words
	if twin {
		words = a.twinWords
	}
	for _, arg := range args {
		line = append(line, words.Replace(arg))
	}
	return ns.Command(ctx, cg, a.interpreter, line...)
}

// eventually polls until done or the time is over.
func eventually(limit time.Duration, done func() bool) bool {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for begin := time.Now(); !done(); <-tick.C {
		if time.Since(begin) > limit {
			return false
		}
	}
	return true
}

// try makes one attempt and says what the attacker saw, and whether it got out.
func (a *arena) try(r row, cg *world.Cgroup, expect bool) (string, bool) {
	proof := r.proof
	if proof == nil {
		proof = strangers
	}
	a.twin = cg == nil
	before := proof(a)
	if r.proof != nil && r.seen == nil { // what a row before did is counted a moment later, too
		same := 0
		eventually(time.Second, func() bool {
			now := proof(a)
			if now != before {
				before, same = now, 0
			}
			same++
			return same > 2
		})
	}
	got := r.do(a, cg)
	escaped := func() bool {
		if r.seen != nil {
			return r.seen(got)
		}
		return proof(a) > before
	}
	if expect { // what left is counted a moment later
		return got, eventually(time.Second, escaped)
	}
	return got, escaped()
}

// run tests one row.
func (a *arena) run(t *testing.T, r row) {
	a.t = t
	state := "as in the table"
	got, out := a.try(r, a.in, r.open)
	if r.noTwin == "" {
		if twin, free := a.try(r, nil, true); !free {
			if unavailable(twin) {
				state = "not in this kernel"
			} else {
				t.Errorf("the same attack without egressd got nowhere: %s", twin)
			}
		}
	}
	if state == "not in this kernel" {
		if out {
			t.Errorf("it got out: %s", got)
		}
	} else {
		if out != r.open {
			t.Errorf("got out: %t, the table says %t; the attacker saw %s", out, r.open, got)
		}
		if !r.wanted(got) {
			t.Errorf("the attacker saw %q, the table says %q", got, r.want)
		}
	}
	if t.Failed() {
		state = "FAILED: " + got
	}
	if *printTable {
		by := r.by
		if state != "as in the table" {
			by = state
		}
		printRow(r.attack, r.how, r.result(), by)
	}
}

func printRow(attack, how, result, by string) {
	fmt.Printf("%-26s| %-62s| %-34s| %s\n", attack, how, result, by)
}

// unavailable says whether a kernel without a protocol answered.
func unavailable(result string) bool {
	switch result {
	case "ENOENT", "EPROTONOSUPPORT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "ENOSYS", "ENOPROTOOPT", "EINVAL":
		return true
	}
	return false
}

// TestAttacks makes every attack against one daemon, one after the other.
func TestAttacks(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	if *printTable {
		printRow("attack", "how", "result", "stopped by")
	}
	a.must(a.earlier(t, func() error { return a.d.Start(t.Context()) }))
	if got := a.python(a.in, "names", "learn", "{R4}", world.GoogleAPIs, world.API, "a.cdn.example", "tls.example"); got != "learned" {
		t.Fatal(got)
	}
	for _, g := range table() {
		if g.title == "Time" {
			continue // below: these rows change the daemon
		}
		for _, r := range g.rows {
			t.Run(r.attack+"/"+r.how, func(t *testing.T) { a.run(t, r) })
		}
	}
	a.t = t
	a.enforceModes(t)
	a.tighten(t)
	a.killed(t)
	a.followed(t)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
