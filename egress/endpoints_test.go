// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/policy"
)

// TestNextEndpoint: a connection whose bytes nobody reads goes to the next endpoint
// when the one that was drawn can't be reached, in both families.
func TestNextEndpoint(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		var addrs []netip.AddrPort
		for range 3 {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			addrs = append(addrs, ln.Addr().(*net.TCPAddr).AddrPort())
			if len(addrs) < 3 {
				ln.Close() // nobody listens
			}
		}
		s := service("db.example", policy.ResolutionStatic, policy.Port{Number: 5432, Name: "tcp", Protocol: policy.ProtocolTCP})
		s.Addresses = []netip.Prefix{netip.MustParsePrefix("240.1.1.1/32")}
		var allow []policy.AllowedEndpoint
		for _, a := range addrs {
			s.Endpoints = append(s.Endpoints, policy.Endpoint{Addr: a.Addr(), Ports: map[string]uint16{"tcp": a.Port()}})
			allow = append(allow, policy.AllowedEndpoint{Prefix: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Port: a.Port()})
		}
		e, _ := newTestOf(t, &policy.Config{Services: []*policy.Service{s}, AllowedEndpoints: allow})
		in := conn("240.1.1.1:5432")
		o := e.Open(in)
		if o.Protocol != forward.Opaque || len(o.Upstream.Endpoints) != 3 {
			t.Fatalf("%+v %v", o, o.Upstream)
		}
		up, err := e.Dial(t.Context(), in, o.Upstream)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if to := fmt.Sprint(up.RemoteAddr()); to != addrs[2].String() {
			t.Errorf("%s: went to %s, want %s", host, to, addrs[2])
		}
		up.Close()
	}
}
