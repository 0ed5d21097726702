// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
)

// destinationRule is one with a traffic policy.
func destinationRule(name, host, traffic string) string {
	return `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ` + name + `}
spec:
  host: ` + host + `
  trafficPolicy: ` + traffic + `
`
}

// TestBalanced: a DestinationRule has the connections and requests to a service with
// three endpoints go to one after the other, whichever address was dialled. One that
// nobody answers at is taken out, and no connection fails because of it.
func TestBalanced(t *testing.T) {
	t.Parallel()
	var spare *world.Server
	var web []string
	n := prepare(t, map[string]string{}, func(w *world.World) {
		var err error
		if spare, err = w.AddTCP(netip.MustParseAddrPort(hostPort(world.DBV4, 7)), ""); err != nil {
			t.Fatal(err)
		}
		web = []string{w.GoogleAPIs.V4.String(), w.API.V4.String(), w.API2.V4.String()}
	})
	four, six := n.Echo.Addr.Addr().String(), n.Echo6.Addr.Addr().String()
	list := "{address: " + four + "}, {address: " + world.DBV4 + "}"
	n.write(t, "balance.yaml", service("echo", "echo.internal", "{number: 7, name: tcp, protocol: TCP}", echoVIP4+`, "`+echoVIP6+`"`, list+`, {address: "`+six+`"}`)+
		destinationRule("echo", "echo.internal", "{loadBalancer: {simple: ROUND_ROBIN}}")+
		service("web", "web.internal", "{number: 80, name: http, protocol: HTTP}", webVIP4, "{address: "+strings.Join(web, "}, {address: ")+"}")+
		destinationRule("web", "web.internal", "{loadBalancer: {simple: ROUND_ROBIN}}")+
		service("db", "db.internal", "{number: 3306, name: tcp, protocol: TCP}", dbVIP, "{address: "+world.DBV4+"}, {address: "+four+"}")+
		destinationRule("db", "db.internal", "{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 50, interval: 1h, baseEjectionTime: 1h}}"))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	servers := []*world.Server{n.Echo, n.Echo6, spare}
	for i, addr := range []string{echoVIP4, echoVIP6, four, six, echoVIP4, world.DBV4} { // two rounds of three
		if p := n.probe(t, n.in, "dial", hostPort(addr, 7)); p.Error != "" {
			t.Errorf("%s: %+v", addr, p)
		}
		// The core connects after it was dialled.
		if hits := (i + 1) / 3; i%3 == 2 {
			for _, s := range servers {
				eventually(t, soon, fmt.Sprintf("of %d connections %d arrive at %v", i+1, hits, s.Addr), func() bool { return s.Hits() == hits })
			}
		}
	}
	got := map[string]int{}
	for range 6 {
		a := n.curl(t, n.in, "-4", "http://web.internal/")
		for _, addr := range web {
			if a.status == 200 && strings.Contains(a.body, addr) {
				got[addr]++
			}
		}
	}
	for _, addr := range web {
		if got[addr] != 2 {
			t.Errorf("requests by endpoint: %v", got)
		}
	}
	// Nobody listens on port 3306 of the echo server.
	for range 4 {
		if p := n.probe(t, n.in, "dial", hostPort(dbVIP, 3306)); p.Error != "" {
			t.Errorf("with a dead endpoint: %+v", p)
		}
	}
	eventually(t, soon, "the status says that an endpoint is ejected", func() bool {
		out := n.egressd(t, "status", "-o", "json").stdout
		return strings.Contains(out, `"consecutive_5xx": 1`) || strings.Contains(out, `"consecutive_5xx":1`)
	})
	n.event(t, "a connection by the rule", func(e flow.Event) bool {
		return e.Layer == flow.Egress && e.Kind == flow.Close && e.Dst.String() == hostPort(four, 7) && e.Allowed
	})
	// The twins: without egressd the endpoints are there, and each is the one that
	// was dialled.
	before := n.Echo.Hits()
	for range 2 {
		if p := n.probe(t, nil, "dial", hostPort(four, 7)); p.Error != "" {
			t.Errorf("uncaptured: %+v", p)
		}
	}
	eventually(t, soon, "uncaptured, both connections reach the endpoint that was dialled", func() bool { return n.Echo.Hits()-before == 2 })
}
