// SPDX-License-Identifier: Apache-2.0

// Package probe lets egressd use itself as a workload does: a process in a
// captured cgroup asks DNS and dials the proxy, and what comes of it says
// whether they work, and if not, what is in the way.
//
// Nothing of it leaves the machine: the addresses are those of documentation,
// and the sockets are bound to the loopback device.
package probe

import (
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Path is a way from workloads to egressd.
type Path string

// The paths.
const (
	DNSUDP Path = "dns-udp"
	DNSTCP Path = "dns-tcp"
	Proxy  Path = "proxy"
)

// paths lists them.
var paths = []Path{DNSUDP, DNSTCP, Proxy}

// Family is an address family.
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Name is what the probe asks DNS for; it exists for the probe alone (RFC 6761,
// section 6.4). Greeting is what the proxy says to it.
const (
	Name     = "probe.egressd.invalid."
	Greeting = "egressd\n"
)

// The destinations of a captured probe (RFC 5737, RFC 3849), of which the proxy's
// must be open to it. Port 9 is discard's.
var (
	destination4 = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	destination6 = netip.MustParseAddr("2001:db8::1")
)

const (
	dnsPort   = 53
	proxyPort = 9
)

// Destination is where a captured probe dials the proxy.
func Destination(f Family) netip.AddrPort {
	if f == IPv4 {
		return netip.AddrPortFrom(destination4, proxyPort)
	}
	return netip.AddrPortFrom(destination6, proxyPort)
}

// Attempt is what one socket tries.
type Attempt struct {
	Path   Path
	Family Family
	Addr   netip.AddrPort
	// Announce, if set, is told the source before anything is sent; what it
	// returns is called at the end. It is for probes that are not captured, which
	// the listener would not know otherwise.
	Announce func(src netip.AddrPort) (done func())
}

// Captured are the targets of a captured process.
func Captured(families []Family) []Attempt {
	var all []Attempt
	for _, f := range families {
		proxy := Destination(f)
		dns := netip.AddrPortFrom(proxy.Addr(), dnsPort)
		all = append(all, Attempt{Path: DNSUDP, Family: f, Addr: dns}, Attempt{Path: DNSTCP, Family: f, Addr: dns},
			Attempt{Path: Proxy, Family: f, Addr: proxy})
	}
	return all
}

// Stage is how far a socket came.
type Stage string

// The stages.
const (
	StageSocket  Stage = "socket"
	StageConnect Stage = "connect"
	StageAnswer  Stage = "answer" // connected, and waits for the answer
)

// Outcome is what came of a Target.
type Outcome struct {
	Path   Path   `json:"path"`
	Family Family `json:"family"`
	// Stage is what failed; empty: nothing did.
	Stage Stage `json:"stage,omitempty"`
	// Errno and Error say why; ETIMEDOUT: nothing happened in time.
	Errno syscall.Errno `json:"errno,omitempty"`
	Error string        `json:"error,omitempty"`
	// Redirected says that the kernel led the socket to a listener of egressd.
	Redirected bool `json:"redirected"`
	// Took is in nanoseconds.
	Took time.Duration `json:"took"`
}

// Round tries all targets at once, each within the timeout and until ctx ends.
func Round(ctx context.Context, targets []Attempt, timeout time.Duration) []Outcome {
	out := make([]Outcome, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() { out[i] = Dial(ctx, t, timeout) })
	}
	all.Wait()
	return out
}

// Main is the captured process: it writes what came of one round.
func Main(families []Family, timeout time.Duration, w io.Writer) error {
	return json.NewEncoder(w).Encode(Round(context.Background(), Captured(families), timeout))
}
