// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/policy"
)

// TestOwn: the daemon's ports on any address of the node, and no others.
func TestOwn(t *testing.T) {
	a := &Agent{}
	own := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	a.addresses.Set([]netip.Prefix{netip.PrefixFrom(own[0], 32), netip.PrefixFrom(own[1], 128)})
	for _, host := range append(own, netip.MustParseAddr("127.9.9.9"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::"), netip.MustParseAddr("::ffff:127.0.0.1")) {
		for _, port := range []uint16{15000, 15001, 15020, 15021, 15053} {
			if !a.own(netip.AddrPortFrom(host, port)) {
				t.Errorf("%v port %d is not egressd's own", host, port)
			}
		}
		if a.own(netip.AddrPortFrom(host, 80)) {
			t.Errorf("%v port 80 is egressd's own", host)
		}
	}
	for _, host := range []string{"203.0.113.7", "2001:db8::7"} {
		if a.own(netip.AddrPortFrom(netip.MustParseAddr(host), 15000)) {
			t.Errorf("%s is not this node", host)
		}
	}
	l, err := listen.Open(t.Context(), listen.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.sockets = l
	for _, port := range []uint16{l.Ports().Proxy, l.Ports().DNSTCP} {
		if !a.own(netip.AddrPortFrom(netip.MustParseAddr("::1"), port)) {
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
	state, other := filepath.Join(dir, "state"), filepath.Join(dir, "other")
	for _, d := range []string{state, other} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(state, link); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(other, LockFile), "")
	free := filepath.Join(dir, AdminSocket)
	list := []string{filepath.Join(state, AdminSocket), filepath.Join(state, "exec-1", "x"), filepath.Join(other, AdminSocket), free}
	a := &Agent{opts: Options{StateDir: link}}
	for _, s := range list {
		a.opts.AllowEndpoints = append(a.opts.AllowEndpoints, policy.AllowedEndpoint{Unix: s})
	}
	for _, s := range list {
		if got := a.allowsSocket(s); got != (s == free) {
			t.Errorf("%s: %t", s, got)
		}
	}
	if a.allowsSocket(filepath.Join(dir, "x")) {
		t.Error("a socket that nobody allowed")
	}
}
