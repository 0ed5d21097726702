// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// SocketSet is descriptors with names, each for one owner: whoever takes one has it.
// Several may have one name; sockets of one name are told apart by their
// addresses. The nil Set is empty. It is safe for concurrent use.
type SocketSet struct {
	mu          sync.Mutex
	descriptors []descriptor
}

type descriptor struct {
	name string
	fd   int
}

// NewSet makes a set of open files, which it takes over.
func NewSet(files []*os.File, name func(*os.File) string) (*SocketSet, error) {
	s := &SocketSet{}
	var errs []error
	for _, f := range files {
		errs = append(errs, s.Add(name(f), f), f.Close())
	}
	return s, errors.Join(errs...)
}

// Add puts a duplicate of c's descriptor into the set.
func (s *SocketSet) Add(name string, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	cerr := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.descriptors = append(s.descriptors, descriptor{name, fd})
	return nil
}

func (s *SocketSet) all() []descriptor {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.descriptors)
}

// Each calls f with the name and the descriptor of each, which stay the set's,
// until it fails.
func (s *SocketSet) Each(f func(name string, fd int) error) error {
	for _, d := range s.all() {
		if err := f(d.name, d.fd); err != nil {
			return err
		}
	}
	return nil
}

// take removes the first descriptor that fits.
func (s *SocketSet) take(fits func(descriptor) bool) (int, bool) {
	if s == nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.descriptors, fits)
	if i < 0 {
		return 0, false
	}
	fd := s.descriptors[i].fd
	s.descriptors = slices.Delete(s.descriptors, i, i+1)
	return fd, true
}

// File takes a file out of the set; nil: there is none of that name. path is
// what it calls itself.
func (s *SocketSet) File(name, path string) *os.File {
	fd, ok := s.take(func(d descriptor) bool { return d.name == name })
	if !ok {
		return nil
	}
	return os.NewFile(uintptr(fd), path)
}

// Listener takes the TCP listener at an address out of the set; nil: there is
// none.
func (s *SocketSet) Listener(name string, at netip.AddrPort) *net.TCPListener {
	fd, ok := s.take(func(d descriptor) bool {
		return d.name == name && option(d.fd, unix.SO_ACCEPTCONN) == 1 && addressOf(d.fd) == at
	})
	if !ok {
		return nil
	}
	t, _ := listener(fd, name).(*net.TCPListener) // as net makes of each TCP socket
	return t
}

// Unix takes the listening unix socket that was bound to a path out of the set; nil:
// there is none.
func (s *SocketSet) Unix(name, path string) *net.UnixListener {
	fd, ok := s.take(func(d descriptor) bool {
		if d.name != name || option(d.fd, unix.SO_ACCEPTCONN) != 1 {
			return false
		}
		sa, err := unix.Getsockname(d.fd)
		u, ok := sa.(*unix.SockaddrUnix)
		return err == nil && ok && u.Name == path
	})
	if !ok {
		return nil
	}
	u, _ := listener(fd, name).(*net.UnixListener) // as net makes of each unix socket
	return u
}

// listener is what net makes of a descriptor, which it closes; nil: it is none.
func listener(fd int, name string) net.Listener {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil
	}
	return ln
}

// Packet takes the UDP socket at an address out of the set; nil: there is none.
func (s *SocketSet) Packet(name string, at netip.AddrPort) *net.UDPConn {
	fd, ok := s.take(func(d descriptor) bool {
		return d.name == name && option(d.fd, unix.SO_TYPE) == unix.SOCK_DGRAM && addressOf(d.fd) == at
	})
	if !ok {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil
	}
	u, _ := c.(*net.UDPConn) // as net makes of each UDP socket
	return u
}

// Port is the port of the first socket of a name; 0: there is none.
func (s *SocketSet) Port(name string) uint16 {
	for _, d := range s.all() {
		if d.name == name {
			return addressOf(d.fd).Port()
		}
	}
	return 0
}

// Len is how many descriptors are left.
func (s *SocketSet) Len() int { return len(s.all()) }

// Close closes what nobody took.
func (s *SocketSet) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.descriptors {
		_ = unix.Close(d.fd) // a descriptor of a socket or a lock: nothing is written
	}
	s.descriptors = nil
}

func option(fd, name int) int {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
	if err != nil {
		return -1
	}
	return v
}

// addressOf is the address that a socket is bound to; IPv4 is unmapped. A
// link-local one is of whatever interface.
func addressOf(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
