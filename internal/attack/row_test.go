// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/world"
)

// row is one attack.
type row struct {
	attack, how string
	// want is what a captured attacker is told; what it says when it succeeds
	// if open is set. Several that are as good are parted by "|".
	want string
	// by says what stops it, or why nothing does.
	by   string
	open bool
	// do makes the attempt and returns the attacker's view.
	do func(a *arena, cg *world.Cgroup) string
	// proof counts what got out; nil: packets to the strangers on the wire.
	proof func(*arena) int
	// seen finds success in the attacker's view, where only that tells.
	seen func(result string) bool
	// noTwin says why the same does not succeed when nobody is captured.
	noTwin string
}

// result is the row's third column.
func (r row) result() string {
	if r.open {
		return "OPEN: " + r.want
	}
	if r.want == cutResult || r.want == ended {
		return "reset"
	}
	return strings.ReplaceAll(r.want, "|", " or ")
}

func (r row) wanted(got string) bool { return slices.Contains(strings.Split(r.want, "|"), got) }

// py is an attempt by a function of testdata. Words in braces are replaced by
// what the arena knows, see fill.
func py(module, function string, args ...string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		return a.python(cg, append([]string{module, function}, args...)...)
	}
}

func ways(function string, args ...string) func(*arena, *world.Cgroup) string {
	return py("ways", function, args...)
}

func names(function string, args ...string) func(*arena, *world.Cgroup) string {
	return py("names", function, args...)
}

// wire counts packets to addresses.
func wire(addrs ...string) func(*arena) int {
	return func(a *arena) int {
		n := 0
		for _, addr := range addrs {
			n += a.Packets(netip.MustParseAddr(addr))
		}
		return n
	}
}

// wirePort counts packets to a port, wherever they go.
func wirePort(port uint16) func(*arena) int {
	return func(a *arena) int {
		n := 0
		for p, k := range a.Wire() {
			if p.Port == port {
				n += k
			}
		}
		return n
	}
}

// stranger is the site that nobody may reach.
func (a *arena) stranger() *world.Origin {
	if a.twin {
		return a.free
	}
	return a.Stranger
}

// strangers counts packets to it.
func strangers(a *arena) int {
	o := a.stranger()
	return wire(o.V4.String(), o.V6.String())(a)
}

// strangers443 counts those to its port 443: connections that others have opened to
// another port may end at any time, with a packet more.
func strangers443(a *arena) int {
	o := a.stranger()
	return wireTo(o.V4.String(), 443)(a) + wireTo(o.V6.String(), 443)(a)
}

// wireTo counts packets to one port of one address.
func wireTo(addr string, port uint16) func(*arena) int {
	return func(a *arena) int {
		n := 0
		for p, k := range a.Wire() {
			if p.Dst == netip.MustParseAddr(addr) && p.Port == port {
				n += k
			}
		}
		return n
	}
}

// asked counts questions about names that have a part in common.
func asked(part string) func(*arena) int {
	return func(a *arena) int {
		n := 0
		for _, q := range a.DNS.Queries() {
			if strings.Contains(q.Name, part) {
				n++
			}
		}
		return n
	}
}

// askedAt counts questions that reached a server.
func askedAt(server string) func(*arena) int {
	return func(a *arena) int {
		n := 0
		for _, q := range a.DNS.Queries() {
			if q.Server.Addr().String() == server {
				n++
			}
		}
		return n
	}
}

func is(success string) func(string) bool {
	return func(result string) bool { return result == success }
}

func has(part string) func(string) bool {
	return func(result string) bool { return strings.Contains(result, part) }
}

// theirs is ways, after another workload has resolved a name that only it may
// reach: the address is open to it now, and to nobody else.
func theirs(function string, args ...string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		if got := ask("udp", "{R4}", "53", "theirs.example")(a, a.other); !strings.Contains(got, world.StrangerV4) {
			return "the other workload asked in vain: " + got
		}
		return ways(function, args...)(a, cg)
	}
}
