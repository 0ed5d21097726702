// SPDX-License-Identifier: Apache-2.0

// Package sdnotify tells a service manager how the daemon is (sd_notify(3)).
// Without one, which is when NOTIFY_SOCKET is not set, it does nothing.
package sdnotify

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/logpipe"
	"github.com/egressd/egressd/internal/quote"
)

// bound is how many bytes of messages wait for a manager that does not read; more
// are lost.
const bound = 64 << 10

// tryFor is how long one attempt to send takes at the most, and with that how long
// after Close the Manager's goroutine lives.
const tryFor = time.Second

// Manager is the service manager that NOTIFY_SOCKET leads to. The nil Manager
// is none. Messages go in order and without waiting: a manager that does not read
// stops nobody. One that can't be sent is logged.
type Manager struct {
	log  *slog.Logger
	out  *logpipe.Writer
	sock *socket
}

// New returns the service manager of this process. The caller must call Close.
func New(log *slog.Logger) *Manager {
	s := &socket{log: log, name: os.Getenv("NOTIFY_SOCKET")}
	return &Manager{log, logpipe.New(s, bound, nil), s}
}

// Close passes on what waits, for at most that long.
func (m *Manager) Close(wait time.Duration) {
	if m == nil {
		return
	}
	m.out.Flush(wait)
	m.sock.closing.Store(true)
	m.out.Close(0)
}

// Ready says that the service is up, or has reloaded. status is for people.
func (m *Manager) Ready(status string) { m.send(daemon.SdNotifyReady + "\n" + line(status)) }

// Reloading says that a reload begins; Ready ends it.
func (m *Manager) Reloading() {
	m.send(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping says that the service ends.
func (m *Manager) Stopping(status string) { m.send(daemon.SdNotifyStopping + "\n" + line(status)) }

// Status is for people.
func (m *Manager) Status(status string) { m.send(line(status)) }

// Alive resets the watchdog. One such message waits at the most for a manager that
// does not read; behind a message of another kind it is not left out, for the next
// one would come when the watchdog's time is over.
func (m *Manager) Alive() {
	if m == nil {
		return
	}
	idle := m.out.Idle() // nothing waits, whatever was dropped
	if m.sock.alive.Swap(true) && !idle {
		return
	}
	m.send(daemon.SdNotifyWatchdog)
}

// WatchdogInterval is how often to call Alive: half of the time after which the
// manager ends the process (WATCHDOG_USEC); 0: it does not.
func (m *Manager) WatchdogInterval() time.Duration {
	if m == nil {
		return 0
	}
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("the service manager's watchdog setting could not be read; if it is on, egressd will be restarted; see WatchdogSec= of the unit", "error", err)
	}
	return d / 2
}

// line keeps a status from being more than one assignment.
func line(status string) string { return "STATUS=" + quote.Line(status) + "\n" }

func (m *Manager) send(state string) {
	if m != nil {
		_, _ = m.out.Write([]byte(state)) // never fails
	}
}

// socket sends each record as a datagram to NOTIFY_SOCKET, if it is set.
type socket struct {
	log     *slog.Logger
	name    string // "": there is no manager
	closing atomic.Bool
	alive   atomic.Bool // a message of the watchdog waits
	failed  bool        // the last one could not be sent
}

// Write waits while the manager's queue is full. Once the Manager is closed nothing
// is sent.
func (s *socket) Write(b []byte) (int, error) {
	err := os.ErrDeadlineExceeded
	for errors.Is(err, os.ErrDeadlineExceeded) {
		if s.closing.Load() {
			return 0, net.ErrClosed
		}
		err = s.send(b)
	}
	if err != nil && !s.failed {
		s.log.Warn("the service manager could not be notified; traffic is not affected; this is logged once until it works again", "error", err)
	}
	s.failed = err != nil
	if string(b) == daemon.SdNotifyWatchdog {
		s.alive.Store(false)
	}
	return len(b), err
}

func (s *socket) send(b []byte) error {
	if s.name == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.name, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(tryFor)); err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

// Inherited are the descriptors that the manager kept for this process
// (sd_listen_fds_with_names(3)); nil: none.
func (m *Manager) Inherited() (*handover.SocketSet, error) {
	if m == nil {
		return nil, nil
	}
	files := activation.Files(true)
	if len(files) == 0 {
		return nil, nil
	}
	return handover.NewSet(files, (*os.File).Name)
}

// Store leaves duplicates of all descriptors with the manager (FDSTORE=1 in
// sd_pid_notify_with_fds(3)), which gives them to the next start. Those that it
// has already it does not take twice. A manager whose unit has no
// FileDescriptorStoreMax= drops them.
func (m *Manager) Store(set *handover.SocketSet) {
	m.each(set, func(name string, fd int) error {
		// A listening socket has nothing to poll for.
		return notify("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0\n", unix.UnixRights(fd))
	})
}

// Keeps says whether there is a manager that may keep descriptors.
func (m *Manager) Keeps() bool { return m != nil && os.Getenv("NOTIFY_SOCKET") != "" }

// Forget makes the manager close all descriptors of these names.
func (m *Manager) Forget(set *handover.SocketSet) {
	m.each(set, func(name string, _ int) error { return notify("FDSTOREREMOVE=1\nFDNAME="+name+"\n", nil) })
}

func (m *Manager) each(set *handover.SocketSet, f func(name string, fd int) error) {
	if !m.Keeps() {
		return
	}
	if err := set.Each(f); err != nil {
		m.log.Warn("the sockets could not be given to the service manager; DNS and proxied connections are refused for a moment when egressd restarts", "error", err)
	}
}

// notify sends a state with descriptors, which daemon.SdNotify can't.
func notify(state string, rights []byte) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	bound := unix.NsecToTimeval(tryFor.Nanoseconds()) // a manager that does not read stops nobody
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &bound); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(s, []byte(state), rights, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0))
}
