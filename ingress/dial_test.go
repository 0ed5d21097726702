// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// found resolves every name to the same addresses.
type found []netip.Addr

func (f found) ResolveFor(context.Context, policy.PolicyID, string, *policy.Host) ([]netip.Addr, error) {
	if len(f) == 0 {
		return nil, errors.New("no server answers")
	}
	return f, nil
}

// TestDial: of a name's addresses the first that answers is used, of one whose
// addresses are used in turn the first alone, and never a listener of egressd's.
func TestDial(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		at := ln.Addr().(*net.TCPAddr).AddrPort()
		nobody := netip.MustParseAddr("127.0.0.77") // nobody listens there
		for _, c := range []struct {
			name  string
			found found
			how   policy.Resolution
			own   dial.Own
			want  error
		}{
			{"a name", found{at.Addr()}, policy.ResolutionDNS, nil, nil},
			{"its second address", found{nobody, at.Addr()}, policy.ResolutionDNS, nil, nil},
			{"in turn", found{at.Addr(), nobody}, policy.ResolutionDNSRoundRobin, nil, nil},
			{"in turn, the first alone", found{nobody, at.Addr()}, policy.ResolutionDNSRoundRobin, nil, dial.ErrConnect},
			{"no address", nil, policy.ResolutionDNS, nil, dial.ErrResolve},
			{"egressd's own", found{at.Addr()}, policy.ResolutionDNS, func(a netip.AddrPort) bool { return a == at }, dial.ErrEndpoint},
		} {
			in := New(Options{Resolver: c.found, Own: c.own})
			u := &policy.Upstream{Host: "x.example", Resolution: c.how, Names: []policy.UpstreamName{{Name: "x.example", Port: at.Port(), Weight: 1}}}
			conn, err := in.Dial(t.Context(), nil, u)
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %s: %v, want %v", host, c.name, err, c.want)
			}
			if err == nil {
				conn.Close()
			}
			if err := in.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}
