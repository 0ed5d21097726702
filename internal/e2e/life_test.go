// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// manager plays the service manager of sd_notify(3).
type manager struct {
	socket string
	mu     sync.Mutex
	states []string // all but the watchdog's
	alive  int
	last   time.Time // of the watchdog's
	// stored are the descriptors that it keeps, by FDNAME.
	stored map[string][]*os.File
}

// newManager listens until the test ends.
func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{socket: filepath.Join(t.TempDir(), "notify"), stored: map[string][]*os.File{}}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf, rights := make([]byte, 4096), make([]byte, 256)
		for {
			n, rn, _, _, err := c.ReadMsgUnix(buf, rights)
			if err != nil {
				return
			}
			m.mu.Lock()
			if strings.HasPrefix(string(buf[:n]), "FDSTORE") {
				m.keep(string(buf[:n]), rights[:rn])
			} else if string(buf[:n]) == "WATCHDOG=1" {
				m.alive++
				m.last = time.Now()
			} else {
				m.states = append(m.states, string(buf[:n]))
			}
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done; m.drop() })
	return m
}

// prefix starts a daemon under the manager.
func (m *manager) prefix(watchdog time.Duration) []string {
	return []string{"env", "NOTIFY_SOCKET=" + m.socket, "WATCHDOG_USEC=" + strconv.FormatInt(watchdog.Microseconds(), 10)}
}

// next waits for the next states, each of which must match.
func (m *manager) next(t *testing.T, when string, want ...string) (got []string) {
	t.Helper()
	eventually(t, soon, when+": the manager is told", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.states) >= len(want)
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	got, m.states = m.states[:len(want)], m.states[len(want):]
	for i := range want {
		if !regexp.MustCompile(want[i]).MatchString(got[i]) {
			t.Errorf("%s: the manager was told %q, want %s", when, got[i], want[i])
		}
	}
	return got
}

// pings counts the watchdog's messages and says how old the last one is.
func (m *manager) pings() (int, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alive, time.Since(m.last)
}

// pid is the daemon's.
func (n *node) pid(t *testing.T) int {
	t.Helper()
	var s struct{ PID int }
	e := n.egressd(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(e.stdout), &s); err != nil || s.PID <= 1 {
		t.Fatalf("egressd status: exit %d, %v: %q %s", e.code, err, e.stdout, e.stderr)
	}
	return s.PID
}

func (n *node) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(n.pid(t), s); err != nil {
		t.Fatal(err)
	}
}

// logs waits for a line in the daemon's log behind the given place, and returns
// the place behind it.
func (n *node) logs(t *testing.T, from int, text string) int {
	t.Helper()
	at := -1
	eventually(t, soon, "the log says "+text, func() bool {
		at = strings.Index(n.d.Log()[from:], text)
		return at >= 0
	})
	return from + at + len(text)
}

// TestSignals: SIGHUP reads the policy again, whatever is in it, and no signal
// but those that end egressd on purpose ends it; the service manager and the
// log are told.
func TestSignals(t *testing.T) {
	t.Parallel()
	good := tcp("tcp", world.API, "7")
	n := prepare(t, map[string]string{"tcp.yaml": good, "http.yaml": seed(t, "googleapis.yaml")["googleapis.yaml"]}, nil)
	m := newManager(t)
	n.d.Prefix = m.prefix(time.Minute)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const unchanged = `^READY=1\nSTATUS=Ready: mode enforce, policy [0-9a-f]{12} of .*\n$`
	const reloading = `^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n$`
	m.next(t, "start", unchanged)
	at := n.logs(t, 0, "egressd starts")
	at = n.logs(t, at, "all traffic is open")
	at = n.logs(t, at, "ready")
	n.learn(t, world.API)
	direct := n.open(t, n.Echo.Addr.String())
	pid := n.pid(t)
	works := func(when string) {
		t.Helper()
		if !direct.echo(when) {
			t.Errorf("%s: an open connection was cut", when)
		}
		if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
			t.Errorf("%s: %+v", when, a)
		}
		n.isOpen(t, when, n.in, false)
		if now := n.pid(t); now != pid {
			t.Errorf("%s: pid %d, was %d", when, now, pid)
		}
	}

	var before unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &before); err != nil {
		t.Fatal(err)
	}
	n.signal(t, syscall.SIGHUP)
	told := m.next(t, "SIGHUP", reloading, unchanged)
	_, usec, _ := strings.Cut(strings.TrimSpace(told[0]), "USEC=")
	if v, err := strconv.ParseInt(usec, 10, 64); err != nil || v < before.Nano()/1000 {
		t.Errorf("reloading at %q, before the signal at %d", told[0], before.Nano()/1000)
	}
	at = n.logs(t, at, "the policy has not changed")
	works("SIGHUP")

	// The daemon sees the change by itself, too; the signal is one more time.
	n.write(t, "tcp.yaml", strings.Replace(good, "protocol: TCP", "protocol: NONE", 1))
	m.next(t, "bad file", `^STATUS=The newest policy has errors and is not applied; .*tcp\.yaml`)
	n.signal(t, syscall.SIGHUP)
	m.next(t, "SIGHUP with a bad file", reloading, `^READY=1\nSTATUS=The newest policy has errors and is not applied; .* stays in force: .*tcp\.yaml`)
	at = n.logs(t, at, "policy not applied; the previous one stays in force")
	works("SIGHUP with a bad file")

	n.write(t, "tcp.yaml", good)
	m.next(t, "repaired file", "^STATUS=Ready: ")
	n.signal(t, syscall.SIGHUP)
	m.next(t, "SIGHUP with a repaired file", reloading, unchanged)
	at = n.logs(t, at, "the policy's files are good again; their policy is in force")
	works("SIGHUP with a repaired file")

	// Both at once: the last signal is answered by a reload that began after it.
	for range 20 {
		n.signal(t, syscall.SIGHUP)
	}
	m.next(t, "many SIGHUPs", reloading, unchanged)
	for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE} {
		n.signal(t, s)
		works(s.String())
	}
	if err := n.d.Terminate(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	n.logs(t, at, "egressd stops")
	var stopping bool
	eventually(t, soon, "the manager is told of the end", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, s := range m.states {
			stopping = stopping || strings.HasPrefix(s, "STOPPING=1\nSTATUS=Stopping: the policy stays in force")
		}
		return stopping
	})
	n.isOpen(t, "stopped", n.in, false)
}

// TestWatchdog: the service manager is told that the daemon is alive for as
// long as it is not stuck.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil, often...)
	m := newManager(t)
	const watchdog = 400 * time.Millisecond
	n.d.Prefix = m.prefix(watchdog)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	alive := func(when string, within time.Duration) {
		t.Helper()
		before, _ := m.pings()
		eventually(t, within, when+": the watchdog is told", func() bool {
			now, _ := m.pings()
			return now >= before+3
		})
	}
	alive("started", soon)
	asked := n.status(t).DNS["no_origin"]
	alive("later", soon)
	if now := n.status(t).DNS["no_origin"]; now != asked {
		t.Errorf("checks count as queries of nobody: %d, %d", asked, now)
	}

	// Without loopback nothing reaches the DNS proxy, and a start anew would not mend
	// that: the daemon is alive, and not ready. See TestProbeStuck for one that is stuck.
	loopback := func(state string) {
		t.Helper()
		if e := n.run(t, nil, "ip", "link", "set", "lo", state); e.code != 0 {
			t.Fatalf("%+v", e)
		}
	}
	loopback("down")
	n.logs(t, 0, "the lo interface is down")
	alive("without loopback", soon)
	loopback("up")
	n.logs(t, 0, "probe of itself succeeds again") // IPv6 addresses of loopback are put back now and then
	if strings.Contains(n.d.Log(), "a loop of the daemon does not answer") {
		t.Error("a loop of the daemon does not answer")
	}
}
