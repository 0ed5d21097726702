// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

type noResolver struct{}

func (noResolver) ResolveFor(context.Context, policy.PolicyID, string, *policy.Host) ([]netip.Addr, error) {
	return nil, errors.New("nothing resolves here")
}

// freePort finds a port that is free on both families.
func freePort(t testing.TB) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

// compile makes a snapshot with a gateway on port that routes /app to the
// origin at backend; port 0: no gateway.
func compile(t *testing.T, port uint16, backend netip.AddrPort) *policy.Snapshot {
	t.Helper()
	host := "app.default.svc.cluster.local"
	c := &policy.Config{
		GatewaySelector:  map[string]string{"istio": "ingressgateway"},
		AllowedEndpoints: []policy.AllowedEndpoint{{Prefix: netip.MustParsePrefix("127.0.0.1/32")}},
		Services: []*policy.Service{{
			Ref:   policy.Ref{Kind: "Service", Namespace: "default", Name: "app"},
			Hosts: []hostname.Pattern{hostname.Pattern(host)}, Resolution: policy.ResolutionStatic,
			Ports:     []policy.Port{{Number: 9080, TargetPort: backend.Port(), Name: "http", Protocol: policy.ProtocolHTTP}},
			Endpoints: []policy.Endpoint{{Addr: backend.Addr(), Weight: 1}},
		}},
		VirtualServices: []*policy.VirtualService{{
			Ref:   policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "app"},
			Hosts: []hostname.Pattern{"*"}, Gateways: []string{"default/gw"},
			HTTP: []*policy.HTTPRule{{
				Matches: []*policy.HTTPMatch{{URI: &policy.StringMatch{Kind: policy.MatchPrefix, Value: "/app"}}},
				Route:   []*policy.WeightedDestination{{Destination: policy.Destination{Host: host, Port: 9080}}},
			}},
		}},
	}
	if port != 0 {
		c.Gateways = []*policy.Gateway{{
			Ref:      policy.Ref{Kind: "Gateway", Namespace: "default", Name: "gw"},
			Selector: map[string]string{"istio": "ingressgateway"},
			Servers: []policy.GatewayServer{{
				Name: "http", Port: port, Protocol: policy.ProtocolHTTP,
				Hosts: []hostname.Pattern{"*"}, HostNamespaces: []string{"*"},
			}},
		}}
	}
	s, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestListenersFollowThePolicy: ports are opened and closed by Apply, requests
// are routed by the newest snapshot, over both families.
func TestListenersFollowThePolicy(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "origin got "+r.URL.Path)
	}))
	defer origin.Close()
	backend := netip.MustParseAddrPort(origin.Listener.Addr().String())
	var newest atomic.Pointer[policy.Snapshot]
	events := flow.NewLog(64)
	in := New(Options{
		Snapshot: newest.Load, Resolver: noResolver{}, Sink: events,
		Log: slog.New(slog.DiscardHandler), Rand: func() uint64 { return 0 },
	})
	apply := func(s *policy.Snapshot) {
		t.Helper()
		newest.Store(s)
		if err := in.Apply(s); err != nil {
			t.Fatal(err)
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(url string) (int, string, error) {
		resp, err := client.Get(url)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), err
	}
	port := freePort(t)
	apply(compile(t, port, backend))
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		base := fmt.Sprintf("http://%s:%d", host, port)
		if code, body, err := get(base + "/app/x"); code != 200 || body != "origin got /app/x" {
			t.Errorf("%s: %d %q %v", host, code, body, err)
		}
		if code, _, err := get(base + "/other"); code != 404 {
			t.Errorf("%s: a path that no rule matches: %d %v, want 404", host, code, err)
		}
	}
	other := freePort(t)
	apply(compile(t, other, backend))
	if _, _, err := get(fmt.Sprintf("http://127.0.0.1:%d/app", port)); err == nil {
		t.Error("the old port is still open")
	}
	if code, _, err := get(fmt.Sprintf("http://127.0.0.1:%d/app", other)); code != 200 {
		t.Errorf("the new port: %d %v", code, err)
	}
	apply(compile(t, 0, backend))
	if got := in.Addresses(); len(got) != 0 {
		t.Errorf("still listening on %v", got)
	}
	if err := in.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPortInUse: one port that is taken is an error and doesn't keep the
// others from being opened.
func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).AddrPort().Port()
	s := compile(t, port, netip.MustParseAddrPort("127.0.0.1:1"))
	in := New(Options{
		Snapshot: func() *policy.Snapshot { return s }, Resolver: noResolver{}, Sink: flow.NewLog(1),
		Log: slog.New(slog.DiscardHandler), Rand: func() uint64 { return 0 },
	})
	if err := in.Apply(s); err == nil {
		t.Error("a taken port is no error")
	}
	if err := in.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
