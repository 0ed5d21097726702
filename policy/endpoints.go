// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// MaxEndpoints bounds an Endpoints: a service with more goes through the
// forwarding core.
const MaxEndpoints = 4096

// Endpoints is where flows to an address go: the one that was dialled (the
// zero value), or one of a list, drawn by weight. It is immutable, and equal
// lists are equal values, whatever their order.
type Endpoints struct {
	// text is the canonical form; see String.
	text string
}

// NewEndpoints returns the list. An endpoint without an address stands for the
// address that was dialled, on the endpoint's port.
func NewEndpoints(list []UpstreamEndpoint) Endpoints {
	weights := map[netip.AddrPort]uint32{}
	for _, e := range list {
		if _, ok := weights[e.Addr]; !ok {
			weights[e.Addr] = max(e.Weight, 1)
		}
	}
	var divisor uint32
	sorted := make([]netip.AddrPort, 0, len(weights))
	for a, w := range weights {
		sorted = append(sorted, a)
		divisor = gcd(divisor, w)
	}
	slices.SortFunc(sorted, netip.AddrPort.Compare)
	var b strings.Builder
	for i, a := range sorted {
		if i > 0 {
			b.WriteByte(' ')
		}
		if a.Addr().IsValid() {
			b.WriteString(a.String())
		} else {
			b.WriteString(":" + strconv.Itoa(int(a.Port())))
		}
		if w := weights[a] / divisor; w > 1 {
			b.WriteString("*" + strconv.FormatUint(uint64(w), 10))
		}
	}
	return Endpoints{b.String()}
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// onPort is the dialled address on a port.
func onPort(port uint16) Endpoints {
	return NewEndpoints([]UpstreamEndpoint{{Addr: netip.AddrPortFrom(netip.Addr{}, port)}})
}

// IsZero says whether flows go where they were dialled.
func (e Endpoints) IsZero() bool { return e.text == "" }

// String lists the endpoints with spaces between them, sorted: "10.0.0.1:80*2"
// has weight 2, ":8443" is port 8443 of the address that was dialled.
func (e Endpoints) String() string { return e.text }

// List returns the endpoints, sorted by address and port. Their weights are at
// least 1 and have no common divisor.
func (e Endpoints) List() []UpstreamEndpoint {
	var out []UpstreamEndpoint
	for field := range strings.FieldsSeq(e.text) {
		addr, weight, _ := strings.Cut(field, "*")
		w, err := strconv.ParseUint(weight, 10, 32)
		if err != nil {
			w = 1
		}
		if port, ok := strings.CutPrefix(addr, ":"); ok {
			n, _ := strconv.ParseUint(port, 10, 16) // NewEndpoints wrote it
			out = append(out, UpstreamEndpoint{Addr: netip.AddrPortFrom(netip.Addr{}, uint16(n)), Weight: uint32(w)})
			continue
		}
		a, _ := netip.ParseAddrPort(addr) // NewEndpoints wrote it
		out = append(out, UpstreamEndpoint{Addr: a, Weight: uint32(w)})
	}
	return out
}

// Has says whether a flow that dialled dst may go to a.
func (e Endpoints) Has(dst, a netip.AddrPort) bool {
	if e.IsZero() {
		return dst == a
	}
	return slices.ContainsFunc(e.List(), func(o UpstreamEndpoint) bool {
		if !o.Addr.Addr().IsValid() {
			return a == netip.AddrPortFrom(dst.Addr(), o.Addr.Port())
		}
		return o.Addr == a
	})
}

// Way is what the kernel does with a flow: its verdict, and where the flow
// goes. To is zero unless the verdict is Direct or Inspect.
type Way struct {
	Verdict Verdict
	To      Endpoints
	// Straight is of Proxy: one of the rules that meet here says Direct, so a
	// connection that went straight when there was only that one may go on.
	Straight bool
}

// straight says whether a rule lets a flow go straight by its address.
func (w Way) straight() bool { return w.Straight || w.Verdict == Direct }

// Join is the way of an address and port that two rules open; it does not
// matter which is first. TCP rules that disagree are told apart by the
// forwarding core, which knows every candidate: of two verdicts the laxer
// would let a check be skipped, the stricter would cut what a rule allows, and
// of two lists either would send the other's connections elsewhere. UDP has no
// forwarding core; there the lesser list has its way.
func (w Way) Join(o Way, t Transport) Way {
	switch {
	case o.Verdict == Deny || w == o:
		return w
	case w.Verdict == Deny:
		return o
	case t == TCP:
		return Way{Verdict: Proxy, Straight: w.straight() || o.straight()}
	case w.Verdict != o.Verdict:
		return Way{Verdict: max(w.Verdict, o.Verdict), To: w.To}
	case o.To.text < w.To.text:
		return o
	}
	return w
}

// Within is the way of a flow that one rule opens by its address, or by a
// prefix, and another by a prefix around that. As Join, but of two opaque
// destinations the nearer one has its way, as it has in the forwarding core.
func (w Way) Within(around Way, t Transport) Way {
	if w.Verdict == Direct && around.Verdict == Direct {
		return w
	}
	return w.Join(around, t)
}

func (w Way) String() string {
	if w.To.IsZero() {
		return w.Verdict.String()
	}
	return fmt.Sprintf("%v to %v", w.Verdict, w.To)
}

// Way is what the opening does with flows.
func (o Opening) Way() Way { return Way{Verdict: o.Verdict, To: o.To} }
