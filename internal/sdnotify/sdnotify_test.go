// SPDX-License-Identifier: Apache-2.0

package sdnotify_test

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/sdnotify"
)

const patience = 10 * time.Second

func TestMessages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	var log bytes.Buffer
	m := sdnotify.New(slog.New(slog.NewTextHandler(&log, nil)))
	for _, tt := range []struct {
		send func()
		want string
	}{
		{func() { m.Ready("two\nREADY=0") }, `^READY=1\nSTATUS=two\\nREADY=0\n$`},
		{m.Reloading, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*\n$`},
		{func() { m.Stopping("bye") }, `^STOPPING=1\nSTATUS=bye\n$`},
		{func() { m.Status("well") }, `^STATUS=well\n$`},
		{m.Alive, `^WATCHDOG=1$`},
	} {
		tt.send()
		got := make([]byte, 4096)
		_ = socket.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := socket.Read(got)
		if err != nil || !regexp.MustCompile(tt.want).Match(got[:n]) {
			t.Errorf("%q, %v; want %s", got[:n], err, tt.want)
		}
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
	_ = socket.Close()
	m.Status("one")
	m.Status("two")
	m.Close(patience)
	if n := strings.Count(log.String(), "could not be notified"); n != 1 {
		t.Errorf("nobody listens: said %d times: %q", n, &log)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	log.Reset()
	m = sdnotify.New(slog.New(slog.NewTextHandler(&log, nil)))
	m.Alive()
	m.Close(patience)
	(*sdnotify.Manager)(nil).Alive()
	(*sdnotify.Manager)(nil).Close(patience)
	if log.Len() > 0 {
		t.Errorf("no manager: log %s", &log)
	}
}

// TestStalled: a manager that does not read stops nobody, and has in order what
// was told, when it reads again, but not the watchdog's messages of that time.
func TestStalled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	m := sdnotify.New(slog.New(slog.DiscardHandler))
	const told = 1000 // more than any queue of datagrams (net.unix.max_dgram_qlen) has
	began := time.Now()
	for i := range told {
		m.Status(strconv.Itoa(i))
		m.Alive()
	}
	m.Close(10 * time.Millisecond)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("telling took %v", took)
	}
	m = sdnotify.New(slog.New(slog.DiscardHandler))
	defer m.Close(patience)
	for i := range told {
		m.Status("again " + strconv.Itoa(i))
		m.Alive()
	}
	alive, next := 0, 0
	for buf := make([]byte, 4096); next < told; {
		_ = socket.SetReadDeadline(time.Now().Add(patience))
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatalf("after %d: %v", next, err)
		}
		switch text := string(buf[:n]); {
		case text == "WATCHDOG=1":
			alive++
		case text == "STATUS=again "+strconv.Itoa(next)+"\n":
			next++
		case strings.Contains(text, "again"):
			t.Fatalf("%q came, want number %d", text, next)
		}
	}
	if alive > told/2 {
		t.Errorf("%d messages of the watchdog", alive)
	}
}

func TestWatchdogInterval(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
		warns     bool
	}{
		{"", "", 0, false},
		{"30000000", "", 15 * time.Second, false},
		{"30000000", self, 15 * time.Second, false},
		{"30000000", "1", 0, false}, // another process's
		{"soon", self, 0, true},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		var log bytes.Buffer
		if got := sdnotify.New(slog.New(slog.NewTextHandler(&log, nil))).WatchdogInterval(); got != tt.want || (log.Len() > 0) != tt.warns {
			t.Errorf("%+v: %v, log %q", tt, got, &log)
		}
	}
	if got := (*sdnotify.Manager)(nil).WatchdogInterval(); got != 0 {
		t.Errorf("no manager: %v", got)
	}
}

// TestStore: sockets go to the manager with their names, and come back with the
// descriptors that it starts a process with.
func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	var log bytes.Buffer
	m := sdnotify.New(slog.New(slog.NewTextHandler(&log, nil)))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var set handover.SocketSet
	if err := set.Add("proxy", ln.(*net.TCPListener)); err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	m.Store(&set)
	m.Forget(&set)
	for _, tt := range []struct {
		want   string
		rights int
	}{{"FDSTORE=1\nFDNAME=proxy\nFDPOLL=0\n", 1}, {"FDSTOREREMOVE=1\nFDNAME=proxy\n", 0}} {
		buf, rights := make([]byte, 4096), make([]byte, 64)
		_ = socket.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, rn, _, _, err := socket.ReadMsgUnix(buf, rights)
		if err != nil || string(buf[:n]) != tt.want {
			t.Fatalf("%q, %v; want %q", buf[:n], err, tt.want)
		}
		messages, err := unix.ParseSocketControlMessage(rights[:rn])
		if err != nil || len(messages) != tt.rights {
			t.Fatalf("%q: %d control messages, %v", tt.want, len(messages), err)
		}
		for _, c := range messages {
			fds, err := unix.ParseUnixRights(&c)
			if err != nil || len(fds) != 1 {
				t.Fatalf("descriptors %v, %v", fds, err)
			}
			_ = unix.Close(fds[0])
		}
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
	for _, m := range []*sdnotify.Manager{nil, m} {
		if got, err := m.Inherited(); err != nil || got.Len() != 0 {
			t.Errorf("nothing was given: %d, %v", got.Len(), err)
		}
	}
}
