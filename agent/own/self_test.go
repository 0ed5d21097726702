// SPDX-License-Identifier: Apache-2.0

package own

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// TestOwn: the daemon's ports on any address of the node, and no others.
func TestOwn(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	var node ipguard.Addresses
	node.Set([]netip.Prefix{netip.PrefixFrom(own[0], 32), netip.PrefixFrom(own[1], 128)})
	a := Self{Node: node.Has, Ports: func() loader.Listeners { return loader.Listeners{} }, Interfaces: []string{"localhost:15020", "localhost:15021", "[::1]:9"}}
	for _, host := range append(own, netip.MustParseAddr("127.9.9.9"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::"), netip.MustParseAddr("::ffff:127.0.0.1")) {
		for _, port := range []uint16{9, 15000, 15001, 15020, 15021, 15053} {
			if !a.Listens(netip.AddrPortFrom(host, port)) {
				t.Errorf("%v port %d is not egressd's own", host, port)
			}
		}
		if a.Listens(netip.AddrPortFrom(host, 80)) {
			t.Errorf("%v port 80 is egressd's own", host)
		}
	}
	for _, host := range []string{"203.0.113.7", "2001:db8::7"} {
		if a.Listens(netip.AddrPortFrom(netip.MustParseAddr(host), 15000)) {
			t.Errorf("%s is not this node", host)
		}
	}
	l, err := listen.Open(t.Context(), listen.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.Ports = l.Ports
	for _, port := range []uint16{l.Ports().Proxy, l.Ports().DNSTCP} {
		if !a.Listens(netip.AddrPortFrom(netip.MustParseAddr("::1"), port)) {
			t.Errorf("port %d of exec is not its own", port)
		}
	}
}

// TestOwnSockets: consent never reaches an egressd.
func TestOwnSockets(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	mine, other := filepath.Join(dir, "state"), filepath.Join(dir, "other")
	for _, d := range []string{mine, other} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(mine, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, state.LockFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	free := filepath.Join(dir, state.AdminSocket)
	list := []string{filepath.Join(mine, state.AdminSocket), filepath.Join(mine, "exec-1", "x"), filepath.Join(other, state.AdminSocket), free}
	var allowed []policy.AllowedEndpoint
	for _, s := range list {
		allowed = append(allowed, policy.AllowedEndpoint{Unix: s})
	}
	a := Self{StateDirs: []string{link, filepath.Join(dir, "missing")}, Consent: policy.NewConsent(allowed)}
	for _, s := range list {
		if got := a.AllowsSocket(s); got != (s == free) {
			t.Errorf("%s: %t", s, got)
		}
	}
	if a.AllowsSocket(filepath.Join(dir, "x")) {
		t.Error("a socket that nobody allowed")
	}
}

// TestIsDNS: egressd's own DNS listeners are no servers to ask, wherever on the node
// they are named, and another server beside them is one.
func TestIsDNS(t *testing.T) {
	node := netip.MustParseAddr("192.0.2.1")
	s := Self{
		Node: func(a netip.Addr) bool { return a == node },
		Ports: func() loader.Listeners {
			return loader.Listeners{DNSTCP: 1053, DNSUDP: [loader.Slots]uint16{1053, 4001}}
		},
	}
	for at, want := range map[string]bool{
		"127.0.0.1:1053": true, "[::1]:1053": true, "127.0.0.1:4001": true, "0.0.0.0:1053": true, "192.0.2.1:1053": true, "[::ffff:192.0.2.1]:4001": true,
		"127.0.0.1:53": false, "192.0.2.1:53": false, "203.0.113.1:1053": false, "[2001:db8::1]:1053": false,
	} {
		if got := s.IsDNS(netip.MustParseAddrPort(at)); got != want {
			t.Errorf("%s: %t", at, got)
		}
	}
}
