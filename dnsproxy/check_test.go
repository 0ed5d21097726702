// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestCheck: the proxy answers itself, and nobody else whom the kernel has not
// redirected, and it doesn't when its handlers are stuck.
func TestCheck(t *testing.T) {
	r := newRig(t, Config{}).serve()
	r.origins.client.Store(nil) // nobody was redirected
	for _, at := range r.udp {
		if err := r.Check(t.Context(), net.UDPAddrFromAddrPort(at)); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	if n := r.Stats()["no_origin"]; n != 0 {
		t.Errorf("%d queries of nobody", n)
	}
	if e := r.events.take(); len(e) != 0 {
		t.Errorf("events: %v", e)
	}
	// The same question from somewhere else.
	c := dns.Client{Timeout: 100 * time.Millisecond}
	if rep, _, err := c.Exchange(new(dns.Msg).SetQuestion("localhost.", dns.TypeA), r.udp[0].String()); err == nil {
		t.Errorf("somebody else is answered: %v", rep)
	}

	for r.queries.acquire(checker) {
		defer r.queries.release(checker)
	}
	if err := r.Check(t.Context(), net.UDPAddrFromAddrPort(r.udp[0])); err == nil {
		t.Error("no handler is free, and the proxy answers")
	}
	nobody := newRig(t, Config{})
	pc, ln := listenBoth(t, "127.0.0.1:0")
	defer pc.Close()
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := nobody.Check(ctx, pc.LocalAddr()); err == nil {
		t.Error("nobody serves, and the proxy answers")
	}
}
