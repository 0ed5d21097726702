// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestSocket dials real sockets: the one that is drawn, else another; none
// that the operator has not allowed where it really is, and none of egressd's
// own.
func TestSocket(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	served, gone, link, own := filepath.Join(dir, "s"), filepath.Join(dir, "gone"), filepath.Join(dir, "link"), filepath.Join(dir, "own")
	abstract := "@egressd-test-" + filepath.Base(dir)
	testenv.Elsewhere(t, served)
	testenv.Elsewhere(t, abstract)
	ln, err := net.Listen("unix", own)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.Symlink(served, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		endpoints []string
		allowed   []string // to the dial; the policy allows all
		want      error
	}{
		{"served", []string{served}, []string{served}, nil},
		{"another serves", []string{gone, served}, []string{served, gone}, nil},
		{"abstract", []string{abstract}, []string{abstract}, nil},
		{"nobody serves", []string{gone}, []string{gone}, dial.ErrConnect},
		{"a link to what is allowed", []string{link}, []string{served}, nil},
		{"a link to what is not", []string{link}, []string{link}, dial.ErrEndpoint},
		{"not allowed", []string{served}, nil, dial.ErrEndpoint},
		{"not allowed, abstract", []string{abstract}, nil, dial.ErrEndpoint},
		{"its own", []string{own}, []string{own}, dial.ErrEndpoint},
	} {
		s := service("db.example", policy.ResolutionStatic, policy.Port{Number: 5432, Name: "tcp", Protocol: policy.ProtocolTCP})
		s.Addresses = []netip.Prefix{netip.MustParsePrefix("240.1.1.1/32")}
		var allow []policy.AllowedEndpoint
		for _, e := range c.endpoints {
			s.Endpoints = append(s.Endpoints, policy.Endpoint{Unix: e})
			allow = append(allow, policy.AllowedEndpoint{Unix: e})
		}
		e, _ := newTestOf(t, &policy.Config{Services: []*policy.Service{s}, AllowedEndpoints: allow})
		var consent []policy.AllowedEndpoint
		for _, a := range c.allowed {
			consent = append(consent, policy.AllowedEndpoint{Unix: a})
		}
		e.o.Socket = policy.NewConsent(consent).Socket
		in := conn("240.1.1.1:5432")
		o := e.Open(in)
		if o.Protocol != forward.Opaque {
			t.Fatalf("%s: %+v", c.name, o)
		}
		up, err := e.Dial(t.Context(), in, o.Upstream)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if err != nil {
			continue
		}
		buf := make([]byte, 2)
		if _, err := up.Write([]byte("hi")); err != nil {
			t.Error(err)
		}
		if _, err := up.Read(buf); err != nil || string(buf) != "hi" {
			t.Errorf("%s: %q, %v", c.name, buf, err)
		}
		up.Close()
	}
}

// TestNoConsent: an upstream without an endpoint that may be dialled is not.
func TestNoConsent(t *testing.T) {
	s := service("db.example", policy.ResolutionStatic, policy.Port{Number: 5432, Name: "tcp", Protocol: policy.ProtocolTCP})
	s.Addresses = []netip.Prefix{netip.MustParsePrefix("240.1.1.1/32")}
	for _, ep := range []policy.Endpoint{{Unix: "/run/x"}, {Addr: netip.MustParseAddr("127.0.0.1")}, {Addr: netip.MustParseAddr("::1")}} {
		s.Endpoints = []policy.Endpoint{ep}
		e, f := newTest(t, s)
		if o := e.Open(conn("240.1.1.1:5432")); o.Protocol != forward.Refuse || o.Decision.Reason != policy.ReasonEndpoint {
			t.Errorf("%+v: %+v", ep, o)
		}
		u := f.Policy(policy.DefaultPolicy).Lookup("db.example").Ports[0].Upstream
		if _, err := e.Dial(t.Context(), conn("240.1.1.1:5432"), u); !errors.Is(err, dial.ErrEndpoint) {
			t.Errorf("%+v: %v", ep, err)
		}
	}
}

// TestOwnListeners: nothing is dialled where egressd itself listens, however
// the policy leads there.
func TestOwnListeners(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		host := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
		ln, err := net.Listen(network, host)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		at := ln.Addr().(*net.TCPAddr).AddrPort()
		e, _ := newTest(t)
		u := &policy.Upstream{Host: "x", Endpoints: []policy.UpstreamEndpoint{{Addr: at, Weight: 1}}}
		up, err := e.Dial(t.Context(), conn("203.0.113.1:1"), u)
		if err != nil {
			t.Fatal(err)
		}
		up.Close()
		e.o.Own = func(a netip.AddrPort) bool { return a == at }
		if _, err := e.Dial(t.Context(), conn("203.0.113.1:1"), u); !errors.Is(err, dial.ErrEndpoint) {
			t.Errorf("%v: %v", at, err)
		}
		// An address that is known for the node's own by the connection alone.
		e.o.Own = func(a netip.AddrPort) bool {
			return a == netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
		}
		if _, err := e.Dial(t.Context(), conn("203.0.113.1:1"), u); !errors.Is(err, dial.ErrEndpoint) {
			t.Errorf("%v: %v", at, err)
		}
	}
}

// TestAddressAsName: a name that is an address is checked like an answer.
func TestAddressAsName(t *testing.T) {
	wild := service("*.1", policy.ResolutionDNS, https)
	e, f := newTest(t, wild)
	u := f.Policy(policy.DefaultPolicy).Hosts()[0].Ports[0].Upstream
	for _, name := range []string{"127.0.0.1", "::1"} {
		if _, err := e.Dial(t.Context(), conn("203.0.113.1:443"), u.WithName(name)); !errors.Is(err, dial.ErrAddress) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
