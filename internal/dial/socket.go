// SPDX-License-Identifier: Apache-2.0

package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Socket connects to a socket in the file system, or an abstract one
// ("@name"). allowed is asked about the place that was opened, links resolved:
// a link may have been put in a socket's place since somebody looked at it. A
// socket that egressd itself listens on is never dialled. The error wraps
// ErrEndpoint for a refusal, else ErrConnect.
func Socket(ctx context.Context, path string, allowed func(string) bool) (net.Conn, error) {
	name := path
	if path == "" || path[0] != '@' {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConnect, &os.PathError{Op: "open", Path: path, Err: err})
		}
		defer unix.Close(fd)
		// The socket that was opened is dialled, whatever the path leads to now.
		name = "/proc/self/fd/" + strconv.Itoa(fd)
		real, err := os.Readlink(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConnect, err)
		}
		path = real
	}
	if !allowed(path) {
		return nil, fmt.Errorf("%w: unix://%s", ErrEndpoint, path)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnect, err)
	}
	pid, err := peerPID(c.(*net.UnixConn))
	if err != nil || pid == os.Getpid() {
		c.Close()
		return nil, fmt.Errorf("%w: unix://%s is egressd's own (%v)", ErrEndpoint, path, err)
	}
	return c, nil
}

// peerPID is the process at the other end of a unix socket: who listens, or
// who connected (unix(7), SO_PEERCRED).
func peerPID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// Own says whether an address is one where egressd itself listens. A nil Own
// knows none.
type Own func(netip.AddrPort) bool

// Dial is Any for those of addrs that are not egressd's own. The error
// wraps ErrEndpoint when all of them are.
func (own Own) Dial(ctx context.Context, addrs []netip.AddrPort) (net.Conn, error) {
	if own == nil || len(addrs) == 0 {
		return Any(ctx, addrs)
	}
	others := slices.DeleteFunc(slices.Clone(addrs), own)
	if len(others) == 0 {
		return nil, fmt.Errorf("%w: %v is egressd's own", ErrEndpoint, addrs[0])
	}
	c, err := Any(ctx, others)
	if err != nil {
		return nil, err
	}
	// An address that only the routes know is the node's own as well: then the
	// connection comes from where it goes to.
	local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	if local.Addr() == remote.Addr() && own(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), remote.Port())) {
		c.Close()
		return nil, fmt.Errorf("%w: %v is egressd's own", ErrEndpoint, remote)
	}
	return c, nil
}
