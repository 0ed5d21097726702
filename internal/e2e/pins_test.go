// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// pinState is the part of the status about pins.
type pinState struct {
	Pins struct {
		Dir, Error string
		Lasting    bool
	}
}

func (n *node) pins(t *testing.T) pinState {
	t.Helper()
	var s pinState
	e := n.egressd(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(e.stdout), &s); err != nil || s.Pins.Dir == "" {
		t.Fatalf("egressd status: exit %d, %v: %q %s", e.code, err, e.stdout, e.stderr)
	}
	return s
}

// isOpen fails the test unless the stranger can be reached from the cgroup, or
// can't.
func (n *node) isOpen(t *testing.T, when string, cg *world.Cgroup, want bool) {
	t.Helper()
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		p := n.probe(t, cg, "dial", hostPort(addr, 443))
		if (p.Error == "") != want || !want && p.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s: %s: %+v, want free %v", when, addr, p, want)
		}
	}
}

// TestVolatilePins: a bpf filesystem that only the daemon's own mount namespace
// has is no place to enforce from, unless the operator takes the risk.
func TestVolatilePins(t *testing.T) {
	t.Parallel()
	private := t.TempDir()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	with := func(flags string) {
		n.d.Prefix = []string{"sh", "-c", `mount -t bpf -o mode=0700 bpf ` + private + ` && exec "$@" --pin-dir ` + private + `/egressd ` + flags, "sh"}
	}
	with("")
	err := n.d.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "--volatile-pins") || !strings.Contains(err.Error(), "mount namespace") {
		t.Fatalf("enforce with private pins: %v", err)
	}
	n.isOpen(t, "refused to start", n.in, true)

	for _, flags := range []string{"--volatile-pins", "--mode audit"} {
		with(flags)
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatalf("%s: %v", flags, err)
		}
		n.isOpen(t, flags, n.in, flags == "--mode audit")
		if s := n.pins(t); s.Pins.Lasting || !strings.Contains(s.Pins.Error, "mount namespace") {
			t.Errorf("%s: %+v", flags, s)
		}
		if e := n.egressd(t, "status"); !strings.Contains(e.stdout, "all traffic is open when the daemon ends") {
			t.Errorf("%s: status: %s", flags, e.stdout)
		}
		if m := n.metric(t, "egressd_pins_lasting"); m != "0" {
			t.Errorf("%s: egressd_pins_lasting %s", flags, m)
		}
		if !strings.Contains(n.d.Log(), "the pins end with the daemon; if egressd ends or is killed, all traffic is open") {
			t.Errorf("%s: the log doesn't say so", flags)
		}
		_ = n.d.Kill() // says that it was killed
		// Which is what the flag accepts. The kernel takes the mount down when
		// the last process of its namespace is gone, and the programs after that.
		eventually(t, 10*time.Second, flags+": all is open behind a killed daemon", func() bool {
			return n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)).Error == ""
		})
		n.isOpen(t, "killed", n.in, true)
	}

	// The twin: with a bpf filesystem of the machine nothing is said, and the
	// policy stays in force.
	n.d.Prefix = nil
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := n.pins(t); !s.Pins.Lasting || s.Pins.Error != "" {
		t.Errorf("lasting: %+v", s)
	}
	if m := n.metric(t, "egressd_pins_lasting"); m != "1" {
		t.Errorf("lasting: egressd_pins_lasting %s", m)
	}
	_ = n.d.Kill() // says that it was killed
	n.isOpen(t, "lasting, killed", n.in, false)
}

// metric is the value of a metric, given by its name and labels.
func (n *node) metric(t *testing.T, name string) string {
	t.Helper()
	a := n.curl(t, nil, "http://127.0.0.1:15020/metrics")
	_, rest, _ := strings.Cut(a.body, "\n"+name+" ")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// TestPinsAreMounted: in a mount namespace of its own, with no bpf filesystem
// anywhere, the daemon mounts one where the machine's first process sees it.
func TestPinsAreMounted(t *testing.T) {
	t.Parallel()
	// The first process of this machine belongs to others, so another one,
	// whose mount namespace has no bpf filesystem, stands in its place.
	const none = "umount -l /sys/fs/bpf 2>/dev/null; "
	const daemon = `mount --bind /proc/$1 /proc/1 && shift && exec "$@" --pin-dir /sys/fs/bpf/egressd`
	for _, tt := range []struct {
		name, first string
		prefix      func(first string) []string
	}{
		{"private", none, func(first string) []string {
			return []string{"sh", "-c", none + daemon, "sh", first}
		}},
		// As units with PrivateMounts= are: what the first process mounts
		// shows here, and not the other way round.
		{"slave", none + "mount --make-rshared /; ", func(first string) []string {
			return []string{"nsenter", "--mount=/proc/" + first + "/ns/mnt", "unshare", "--mount", "--propagation", "slave", "sh", "-c", daemon, "sh", first}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			testenv.RequireTool(t, "nsenter")
			n := prepare(t, seed(t, "googleapis.yaml"), nil)
			c := n.Client(t.Context(), nil, "sh", "-c", tt.first+"echo open; read end")
			n.session(t, c)
			first := strconv.Itoa(c.Process.Pid)
			n.d.Prefix = tt.prefix(first)
			link := "/proc/" + first + "/root/sys/fs/bpf/egressd/node/link_egd_connect4"
			if _, err := os.Stat(link); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("before: %v", err)
			}
			for _, when := range []string{"first start", "second start"} {
				if err := n.d.Start(t.Context()); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				if s := n.pins(t); !s.Pins.Lasting {
					t.Errorf("%s: %+v", when, s)
				}
				if _, err := os.Stat(link); err != nil {
					t.Errorf("%s: the first process doesn't see the pins: %v", when, err)
				}
				_ = n.d.Kill() // says that it was killed
				n.isOpen(t, when+", killed", n.in, false)
				n.isOpen(t, when+", the twin", nil, true)
			}
		})
	}
}

// TestExecPrivatePins: the command of an exec that was killed stays under the
// policy, whoever has the bpf filesystem: its own mount namespace is enough.
func TestExecPrivatePins(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{"tcp.yaml": tcp("tcp", world.API, "7")}, nil)
	private := t.TempDir()
	c := n.Client(t.Context(), nil, "sh", "-c", `mount -t bpf -o mode=0700 bpf "$1" && shift && exec "$@"`, "sh", private,
		egressd, "exec", "--config", n.d.ConfigDir(), "--state-dir", filepath.Join(n.Dir(), "exec"), "--pin-dir", private+"/egressd",
		"--dns-server", hostPort(world.ResolverV4, 53), "--", "sh", "-c", `echo open; while read addr; do "$0" dial "$addr"; done`, probe)
	t.Cleanup(func() { // what a killed exec leaves
		found, _ := filepath.Glob(filepath.Join(n.Dir(), "exec", "exec-*", "cgroup")) // the pattern is good
		for _, name := range found {
			path, err := os.ReadFile(name)
			if err = errors.Join(err, cgroup.Remove(string(path))); err != nil {
				t.Error(err)
			}
		}
	})
	l := n.session(t, c)
	try := func(when string) {
		t.Helper()
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			var p probed
			_, err := io.WriteString(l.in, hostPort(addr, 443)+"\n")
			line, rerr := l.out.ReadString('\n')
			if err := errors.Join(err, rerr, json.Unmarshal([]byte(line), &p)); err != nil {
				t.Fatalf("%s: %q: %v", when, line, err)
			}
			if p.Errno != syscall.ECONNREFUSED {
				t.Errorf("%s: %s: %+v", when, addr, p)
			}
		}
	}
	n.noWire(t, func() {
		try("while exec runs")
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, "exec is gone", func() bool {
			state, err := os.ReadFile("/proc/" + strconv.Itoa(c.Process.Pid) + "/stat")
			return err != nil || strings.Contains(string(state), ") Z ")
		})
		try("when exec was killed")
	}, world.StrangerV4, world.StrangerV6)
	n.isOpen(t, "the twin", nil, true)
}
