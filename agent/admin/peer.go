// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is the process at the other end of the admin socket, as it was when it
// connected.
type peer struct {
	pid    int
	uid    uint32
	groups []uint32 // the primary one first
}

// peerOf asks the kernel for the other end of a unix socket (SO_PEERCRED and
// SO_PEERGROUPS, unix(7)).
func peerOf(c *net.UnixConn) (p peer, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return p, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p = peer{pid: int(cred.Pid), uid: cred.Uid, groups: []uint32{cred.Gid}}
		var more []uint32
		more, err = peerGroups(fd)
		p.groups = append(p.groups, more...)
	})
	return p, errors.Join(cerr, err)
}

// maxGroups is how many supplementary groups a process may have (Linux's
// NGROUPS_MAX).
const maxGroups = 65536

// peerGroups are the supplementary groups of the other end.
func peerGroups(fd uintptr) ([]uint32, error) {
	for room := 32; ; room *= 8 {
		buf := make([]byte, 4*room)
		size := uint32(len(buf))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && room < maxGroups:
			continue
		case errno != 0:
			return nil, os.NewSyscallError("getsockopt SO_PEERGROUPS", errno)
		}
		var out []uint32
		for b := buf[:size]; len(b) >= 4; b = b[4:] {
			out = append(out, binary.NativeEndian.Uint32(b))
		}
		return out, nil
	}
}

// may says whether the peer may read (and change, if change is set): root may,
// and who is in the admin group may read.
func (p peer) may(group uint32, change bool) bool {
	return p.uid == 0 || !change && group != 0 && slices.Contains(p.groups, group)
}

// peers is a listener that knows who connects, and hangs up on the process
// self, which is its own: what connects from that is a workload's connection
// that was led here.
type peers struct {
	net.Listener
	self int
}

func (l peers) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if u, ok := c.(*net.UnixConn); ok {
			if p, err := peerOf(u); err == nil && p.pid != l.self {
				return &peerConn{u, p}, nil
			}
		}
		c.Close()
	}
}

type peerConn struct {
	*net.UnixConn
	peer peer
}

type peerKey struct{}

// withPeer notes the peer of a connection for its requests.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	for {
		switch at := c.(type) {
		case *peerConn:
			return context.WithValue(ctx, peerKey{}, at.peer)
		case interface{ NetConn() net.Conn }:
			c = at.NetConn()
		default:
			return ctx
		}
	}
}

// onlyFor serves requests of peers that may make them: those that change
// something, by root alone, and those that read, by the admin group as well.
func onlyFor(group uint32, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, known := r.Context().Value(peerKey{}).(peer)
		change := r.Method != http.MethodGet && r.Method != http.MethodHead
		switch {
		case known && p.may(group, change):
			h.ServeHTTP(w, r)
		case known && p.may(group, false):
			http.Error(w, "only root may do that; run it with sudo", http.StatusForbidden)
		default:
			http.Error(w, "only root and the group of \"egressd run --admin-group\" may read here; run it with sudo", http.StatusForbidden)
		}
	})
}
