// SPDX-License-Identifier: Apache-2.0

package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/policy"
)

// listen accepts connections and keeps them until the test ends.
func listen(t *testing.T, network, at string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func addrOf(ln net.Listener) netip.AddrPort { return ln.Addr().(*net.TCPAddr).AddrPort() }

// silent is an address where no connection is made and none is refused: the
// queue of the listener is full (Linux drops further SYNs).
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return at
}

func TestAny(t *testing.T) {
	v4, v6 := addrOf(listen(t, "tcp4", "127.0.0.1:0")), addrOf(listen(t, "tcp6", "[::1]:0"))
	gone := listen(t, "tcp4", "127.0.0.1:0")
	nobody := addrOf(gone)
	gone.Close()
	mute := silent(t)
	for _, c := range []struct {
		name  string
		addrs []netip.AddrPort
		want  netip.AddrPort // zero: ErrConnect
	}{
		{"one", []netip.AddrPort{v4}, v4},
		{"one of IPv6", []netip.AddrPort{v6}, v6},
		{"in order", []netip.AddrPort{v6, v4}, v6},
		{"one refuses", []netip.AddrPort{nobody, v6}, v6},
		{"one is silent", []netip.AddrPort{mute, v4}, v4},
		{"both", []netip.AddrPort{mute, nobody, v6, v4}, v6},
		{"nobody", []netip.AddrPort{nobody, nobody}, netip.AddrPort{}},
		{"nobody, alone", []netip.AddrPort{nobody}, netip.AddrPort{}},
		{"nothing", nil, netip.AddrPort{}},
	} {
		got, err := Any(t.Context(), c.addrs)
		if err != nil {
			if c.want.IsValid() || !errors.Is(err, ErrConnect) || Refused(err) {
				t.Errorf("%s: %v", c.name, err)
			}
			if n := strings.Count(err.Error(), nobody.String()); n != len(c.addrs) {
				t.Errorf("%s: %d attempts are named: %v", c.name, n, err)
			}
			continue
		}
		if to := got.RemoteAddr().(*net.TCPAddr).AddrPort(); to != c.want {
			t.Errorf("%s: %s, want %s", c.name, to, c.want)
		}
		got.Close()
	}
}

// TestAnyEnds: who gives up waits for no address.
func TestAnyEnds(t *testing.T) {
	mute := silent(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := Any(ctx, []netip.AddrPort{mute, mute}); !errors.Is(err, ErrConnect) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, %v", c, err)
	}
}

// TestLastTried: an error of Any says which address was tried last, also when the time
// was over before it answered.
func TestLastTried(t *testing.T) {
	gone := listen(t, "tcp6", "[::1]:0")
	nobody := addrOf(gone)
	gone.Close()
	mute := silent(t)
	for _, c := range []struct {
		name  string
		addrs []netip.AddrPort
		want  netip.AddrPort // zero: none
	}{
		{"refused", []netip.AddrPort{nobody}, nobody},
		{"silent", []netip.AddrPort{mute}, mute},
		{"refused and silent", []netip.AddrPort{nobody, mute}, mute},
		{"none", nil, netip.AddrPort{}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*fallbackDelay)
		_, err := Any(ctx, c.addrs)
		cancel()
		if at := LastTried(fmt.Errorf("wrapped: %w", err)); err == nil || at != c.want {
			t.Errorf("%s: %v, want %v: %v", c.name, at, c.want, err)
		}
	}
	if at := LastTried(nil); at.IsValid() {
		t.Errorf("of no error: %v", at)
	}
}

func TestOwn(t *testing.T) {
	for _, at := range []netip.AddrPort{addrOf(listen(t, "tcp4", "127.0.0.1:0")), addrOf(listen(t, "tcp6", "[::1]:0"))} {
		other := addrOf(listen(t, "tcp4", "127.0.0.2:0"))
		own := Own(func(a netip.AddrPort) bool { return a == at })
		if _, err := own.Dial(t.Context(), []netip.AddrPort{at}); !errors.Is(err, ErrEndpoint) || !Refused(err) {
			t.Errorf("%s: %v", at, err)
		}
		c, err := own.Dial(t.Context(), []netip.AddrPort{at, other})
		if err != nil {
			t.Fatal(err)
		}
		if to := c.RemoteAddr().(*net.TCPAddr).AddrPort(); to != other {
			t.Errorf("dialled %s", to)
		}
		c.Close()
		if c, err = Own(nil).Dial(t.Context(), []netip.AddrPort{at}); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// TestSocket: a socket of egressd's own is not dialled; that one which others
// serve is, egress's tests say.
func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "own")
	listen(t, "unix", path)
	all := func(string) bool { return true }
	for _, c := range []struct {
		path    string
		allowed func(string) bool
		want    error
		says    string
	}{
		{path, all, ErrEndpoint, "own"},
		{path, func(p string) bool { return p != path }, ErrEndpoint, path},
		{filepath.Join(dir, "none"), all, ErrConnect, "no such file"},
		{"", all, ErrConnect, "no such file"},
		{fmt.Sprintf("@egressd-dial-%d", os.Getpid()), all, ErrConnect, "refused"},
	} {
		if _, err := Socket(t.Context(), c.path, c.allowed); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want %v", c.path, err, c.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	a := netip.MustParseAddr
	found := map[string][]netip.Addr{"two": {a("192.0.2.1"), a("2001:db8::1")}, "one": {a("192.0.2.3")}}
	lookup := func(name string) ([]netip.Addr, error) {
		if found[name] == nil {
			return nil, ErrResolve
		}
		return found[name], nil
	}
	ep := policy.UpstreamEndpoint{Addr: netip.MustParseAddrPort("198.51.100.1:7"), Weight: 1}
	named := func(names ...string) (out []policy.UpstreamName) {
		for _, n := range names {
			out = append(out, policy.UpstreamName{Name: n, Port: 443})
		}
		return out
	}
	for _, c := range []struct {
		u    policy.Upstream
		want string
	}{
		{policy.Upstream{Endpoints: []policy.UpstreamEndpoint{ep}, Names: named("one")}, "[198.51.100.1:7 192.0.2.3:443] <nil>"},
		{policy.Upstream{Names: named("two", "one")}, "[192.0.2.1:443 [2001:db8::1]:443 192.0.2.3:443] <nil>"},
		{policy.Upstream{Names: named("two", "one"), Resolution: policy.ResolutionDNSRoundRobin}, "[192.0.2.1:443 192.0.2.3:443] <nil>"},
		{policy.Upstream{Names: named("none", "one")}, "[192.0.2.3:443] <nil>"},
		{policy.Upstream{Names: named("none")}, "[] none: " + ErrResolve.Error()},
		{policy.Upstream{}, "[] <nil>"},
	} {
		addrs, err := Addresses(&c.u, lookup)
		if got := fmt.Sprint(addrs, " ", err); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
