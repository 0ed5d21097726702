// SPDX-License-Identifier: Apache-2.0

package own

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/ipguard"
)

var errStep = errors.New("this step fails")

// node is all that an AddressWatcher has to do with: it writes down what it is told,
// and fails where the test says.
type node struct {
	steps  []string
	fails  map[string]bool
	closed int
	log    strings.Builder
}

func (n *node) step(name string) error {
	n.steps = append(n.steps, name)
	if n.fails[name] {
		return errStep
	}
	return nil
}

func (n *node) SetOwn([]netip.Prefix) error { return n.step("own") }
func (n *node) RaiseEpoch() error           { return n.step("epoch") }
func (n *node) Recheck() (int, error)       { return n.closed, n.step("names") }

func prefixes(addrs ...string) (out []netip.Prefix) {
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return out
}

// TestLook: an address that the node gets is closed where it was learned before, in
// the kernel first, and what is open is decided again; whatever step fails, those that
// close come all the same.
func TestLook(t *testing.T) {
	old, more := prefixes("192.0.2.1", "2001:db8::1"), prefixes("192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2")
	all := []string{"own", "names", "epoch", "connections"}
	for _, c := range []struct {
		what   string
		now    []netip.Prefix
		closed int
		fails  string
		want   []string
		says   string // in the log
	}{
		{"nothing new", old, 0, "", all[:1], ""},
		{"one fewer", old[:1], 3, "", all[:1], ""},
		{"new, and nobody learned it", more, 0, "", all[:2], ""},
		{"new and learned", more, 2, "", all, "may not reach them any more"},
		{"the kernel refuses the addresses", more, 2, "own", all, "may be refused"},
		{"an address stays open", more, 2, "names", all, "may still reach it"},
		{"only an address that stays open", more, 0, "names", all[:2], "may still reach it"},
		{"the epoch stays", more, 2, "epoch", all, "they continue"},
		{"the addresses cannot be read", more, 2, "list", nil, "goes on with those that it knows"},
	} {
		var known ipguard.Addresses
		known.Set(old)
		n := &node{fails: map[string]bool{c.fails: true}, closed: c.closed}
		w := NewAddressWatcher(Options{
			Addresses: &known, Datapath: n, Names: n, Recheck: func() { n.step("connections") }, Log: slog.New(slog.NewTextHandler(&n.log, nil)),
		})
		w.list = func() ([]netip.Prefix, error) {
			if n.fails["list"] {
				return nil, errStep
			}
			return c.now, nil
		}
		w.look()
		if !slices.Equal(n.steps, c.want) {
			t.Errorf("%s: %q, want %q", c.what, n.steps, c.want)
		}
		if said := n.log.String(); !strings.Contains(said, c.says) || c.says == "" && said != "" {
			t.Errorf("%s: it says %q, want %q", c.what, said, c.says)
		}
		if now := more[2].Addr(); known.Has(now) != (len(c.now) == len(more) && c.fails != "list") {
			t.Errorf("%s: whether %v is the node's: %t", c.what, now, known.Has(now))
		}
	}
}

// TestRead: a start that does not know the node's addresses trusts no answer.
func TestRead(t *testing.T) {
	var known ipguard.Addresses
	n := &node{}
	if err := read(&known, n, func() ([]netip.Prefix, error) { return nil, errStep }); !errors.Is(err, errStep) || len(n.steps) > 0 {
		t.Errorf("without addresses: %v, %q", err, n.steps)
	}
	list := func() ([]netip.Prefix, error) { return prefixes("192.0.2.1"), nil }
	n.fails = map[string]bool{"own": true}
	if err := read(&known, n, list); !errors.Is(err, errStep) {
		t.Errorf("the kernel was not told: %v", err)
	}
	n.fails = nil
	if err := read(&known, n, list); err != nil || !known.Has(netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("well: %v", err)
	}
}

// TestRun: where nobody tells of changes, the addresses are read again and again, and
// the end of the context is the end.
func TestRun(t *testing.T) {
	var known ipguard.Addresses
	n := &node{}
	w := NewAddressWatcher(Options{Addresses: &known, Datapath: n, Names: n, Log: slog.New(slog.NewTextHandler(&n.log, nil))})
	w.list = func() ([]netip.Prefix, error) { return prefixes("192.0.2.1"), nil }
	w.again = time.Millisecond
	w.watch = func(_ context.Context, changed func()) error { changed(); return errStep }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks := 0
	w.Run(ctx, func() {
		if looks++; looks == 5 {
			cancel()
		}
	})
	if len(n.steps) < 5 || looks < 5 || looks > 6 {
		t.Errorf("%d looks, of which others heard %d", len(n.steps), looks)
	}
	if !strings.Contains(n.log.String(), "every few seconds instead") {
		t.Errorf("it says %q", n.log.String())
	}
}
