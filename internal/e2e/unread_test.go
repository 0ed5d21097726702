// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// unread makes the log of the next daemon a pipe that nobody reads: one that is
// full, or one whose reader has gone.
func (n *node) unread(t *testing.T, full bool, prefix ...string) (w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() }) // a test may have closed them
	n.d.Prefix = append([]string{"sh", "-c", fmt.Sprintf(`exec "$@" 2>/proc/%d/fd/%d`, os.Getpid(), w.Fd()), "sh"}, prefix...)
	if !full {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		return w
	}
	fill(t, w)
	return w
}

// fill leaves no room in a pipe.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	c, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = c.Write(func(fd uintptr) bool {
		err = unix.SetNonblock(int(fd), true) // of this description, not the daemon's
		for b := make([]byte, 4096); err == nil && len(b) > 0; {
			if _, err = unix.Write(int(fd), b); errors.Is(err, unix.EAGAIN) {
				b, err = b[:len(b)/2], nil
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask resolves many names at once, none of which is allowed.
const ask = `
import socket, sys, threading
def one(i):
    try:
        socket.getaddrinfo("name%d.example.org" % i, 80)
    except OSError:
        pass
threads = [threading.Thread(target=one, args=(i,)) for i in range(int(sys.argv[1]))]
for t in threads: t.start()
for t in threads: t.join()
`

// TestUnreadLog: a log that nobody reads, because its reader hangs or is gone,
// stops nothing: the start, DNS, the proxy, the kernel's own ways, resets, the
// policy, status, the watchdog, SIGTERM, unload.
func TestUnreadLog(t *testing.T) {
	t.Parallel()
	for _, full := range []bool{true, false} {
		t.Run(fmt.Sprintf("full=%v", full), func(t *testing.T) { t.Parallel(); unreadLog(t, full) })
	}
}

func unreadLog(t *testing.T, full bool) {
	const watchdog = 400 * time.Millisecond
	keep, drop := tcp("keep", world.API, "7"), tcp("drop", "echo.example.net", "7")
	n := prepare(t, map[string]string{"keep.yaml": keep, "drop.yaml": drop, "web.yaml": seed(t, "googleapis.yaml")["googleapis.yaml"]}, nil,
		"--log-level", "debug")
	n.DNS.SetA("echo.example.net", time.Minute, n.Echo.Addr.Addr())
	n.DNS.SetAAAA("echo.example.net", time.Minute)
	m := newManager(t)
	n.unread(t, full, m.prefix(watchdog)...)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := n.pid(t)
	before, _ := m.pings()

	n.run(t, n.in, python(t), "-c", ask, "600") // more than are answered at a time
	n.learn(t, world.API, world.GoogleAPIs)
	n.isOpen(t, "nobody reads the log", n.in, false)
	if a := n.curl(t, n.in, "--max-time", "5", "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("the proxy: %+v", a)
	}
	if a := n.curl(t, n.in, "--max-time", "5", "https://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("TLS: %+v", a)
	}
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		p := n.probe(t, n.in, "tls", hostPort(addr, 443), world.Stranger, n.CAFile())
		if p.Errno != syscall.ECONNRESET && p.Errno != syscall.ECONNABORTED {
			t.Errorf("a name that is denied: %+v, want a reset", p)
		}
	}
	direct := n.open(t, n.Echo.Addr.String())
	if !direct.echo("one") {
		t.Error("a direct connection does not work")
	}
	n.write(t, "keep.yaml", "")
	n.write(t, "drop.yaml", "")
	eventually(t, soon, "the policy without the host", func() bool { return !direct.echo("two") })
	n.write(t, "keep.yaml", keep)
	n.signal(t, syscall.SIGHUP)
	eventually(t, soon, "the policy with the host", func() bool {
		n.learn(t, world.API)
		return n.probe(t, n.in, "dial", n.Echo.Addr.String()).Error == ""
	})
	if now := n.pid(t); now != pid {
		t.Errorf("pid %d, was %d", now, pid)
	}
	eventually(t, soon, "the watchdog is told", func() bool { now, _ := m.pings(); return now >= before+3 })
	if !full && n.metric(t, "egressd_log_dropped_total") == "0" {
		t.Error("nothing is counted")
	}

	ends := stopwatch()
	if err := n.d.Terminate(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if took := ends(); took > soon {
		t.Errorf("the end took %v", took)
	}
	n.isOpen(t, "stopped", n.in, false)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := n.egressd(t, "unload"); e.code != 0 {
		t.Errorf("unload: %+v", e)
	}
	n.isOpen(t, "unloaded", n.in, true)

	// A start that fails ends, too.
	n.write(t, "keep.yaml", "kind: nonsense")
	if err := os.RemoveAll(filepath.Join(n.d.StateDir(), "last-good.json")); err != nil {
		t.Fatal(err)
	}
	fails := stopwatch()
	if err := n.d.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a start with a bad policy: %v", err)
	}
	if took := fails(); took > 2*soon {
		t.Errorf("the start failed after %v", took)
	}
}

// TestLogReadAgain: when somebody reads the log again, it says how much is missing.
func TestLogReadAgain(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	w := n.unread(t, false)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		n.isOpen(t, "nobody reads the log", n.in, false)
	}
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("%+v", a)
	}
	r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_ = r.SetReadDeadline(time.Now().Add(4 * soon))
	n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 81))
	lines := bufio.NewScanner(r)
	if !lines.Scan() || !strings.Contains(lines.Text(), "lines of the log are missing here") || strings.Contains(lines.Text(), "lost=0") {
		t.Errorf("the log begins with %q, %v", lines.Text(), lines.Err())
	}
	if !lines.Scan() || !strings.Contains(lines.Text(), "denied") {
		t.Errorf("the log goes on with %q, %v", lines.Text(), lines.Err())
	}
}

// TestUnreadManager: a service manager that does not read what it is told stops
// nothing.
func TestUnreadManager(t *testing.T) {
	t.Parallel()
	keep := tcp("keep", world.API, "7")
	n := prepare(t, map[string]string{"keep.yaml": keep, "web.yaml": seed(t, "googleapis.yaml")["googleapis.yaml"]}, nil)
	socket := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tell, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer tell.Close()
	_ = tell.SetWriteDeadline(time.Now().Add(soon / 10))
	for err == nil { // until it takes no more
		_, err = tell.Write([]byte("x"))
	}
	n.d.Prefix = []string{"env", "NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=400000"}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.API)
	direct := n.open(t, n.Echo.Addr.String())
	n.write(t, "keep.yaml", "")
	n.signal(t, syscall.SIGHUP)
	eventually(t, soon, "the policy without the host", func() bool { return !direct.echo("x") })
	n.write(t, "keep.yaml", keep)
	eventually(t, soon, "the policy with the host", func() bool {
		n.learn(t, world.API)
		return n.probe(t, n.in, "dial", n.Echo.Addr.String()).Error == ""
	})
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("%+v", a)
	}
	ends := stopwatch()
	if err := n.d.Terminate(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if took := ends(); took > soon {
		t.Errorf("the end took %v", took)
	}
}

// TestExecUnread: exec runs its command, and ends, although nobody reads its
// standard error.
func TestExecUnread(t *testing.T) {
	t.Parallel()
	b := newBench(t, hosts("google", world.GoogleAPIs))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	stalled := []string{"-c", fmt.Sprintf(`exec "$@" 2>/proc/%d/fd/%d`, os.Getpid(), w.Fd()), "sh", egressd}
	fill(t, w)
	line := b.line(nil, shell("echo it runs")...)
	user := slices.Index(line, "--user") // without it exec has something to say
	out, err := b.client(t, nil, "sh", append(stalled, slices.Delete(line, user, user+2)...)...).Output()
	if err != nil || string(out) != "it runs\n" {
		t.Errorf("%q, %v", out, err)
	}
}
