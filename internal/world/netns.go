// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace held by a file descriptor. It has no name in
// /run/netns: when the last descriptor, socket and process is gone, the kernel
// removes it, so even a killed process leaves none behind.
type Netns struct {
	name string
	file *os.File
}

// errGoexit is returned by Do when the function ended its goroutine.
var errGoexit = errors.New("world: function called runtime.Goexit inside a network namespace")

// newNetns makes an empty network namespace.
func newNetns(name string) (*Netns, error) {
	var file *os.File
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making network namespace %s: %w", name, err)
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		file = f
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Netns{name: name, file: file}, nil
}

// Name is the short name that the namespace was made with, for messages.
func (n *Netns) Name() string { return n.name }

// Path is a path through which this process and its children can open the namespace.
func (n *Netns) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Close gives up the descriptor.
func (n *Netns) Close() error { return n.file.Close() }

// Do runs fn with the network namespace entered, on a thread of its own.
// Sockets that fn makes belong to the namespace for good and may be used from
// anywhere. Goroutines that fn starts, and names that it makes the resolver
// look up, do not run inside.
//
// Only the network namespace changes: the mounts, and with them /sys/fs/cgroup
// and /sys/fs/bpf, stay visible (unlike with `ip netns exec`).
func (n *Netns) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace %s: %w", n.name, err)
		}
		return fn()
	})
}

// onOwnThread runs fn on a locked thread and puts the thread's network
// namespace back afterwards. If that fails, the goroutine ends while locked,
// which makes the Go runtime end the thread instead of giving it to others.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() { done <- err }()
		runtime.LockOSThread()
		old, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			err = openErr
			return
		}
		defer func() {
			if unix.Setns(int(old.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			_ = old.Close() // only read from
		}()
		err = fn()
	}()
	return <-done
}

// Listen opens a TCP listener inside the namespace.
func (n *Netns) Listen(addr netip.AddrPort) (net.Listener, error) {
	var ln net.Listener
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // its sockets are no TCP sockets: TCP's options fail
	err := n.Do(func() (err error) {
		ln, err = lc.Listen(context.Background(), family("tcp", addr.Addr()), addr.String())
		return err
	})
	return ln, err
}

// ListenPacket opens a UDP socket inside the namespace.
func (n *Netns) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	var pc net.PacketConn
	err := n.Do(func() (err error) {
		pc, err = (&net.ListenConfig{}).ListenPacket(context.Background(), family("udp", addr.Addr()), addr.String())
		return err
	})
	return pc, err
}

// Dial connects from inside the namespace. network is "tcp" or "udp"; addr is
// never a name, because the resolver would not run inside.
func (n *Netns) Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, family(network, addr.Addr()), addr.String())
		return err
	})
	return c, err
}

// family narrows "tcp" or "udp" to the address family of a, so that a v6
// socket never takes the v4 port as well.
func family(network string, a netip.Addr) string {
	if a.Is4() {
		return network + "4"
	}
	return network + "6"
}
