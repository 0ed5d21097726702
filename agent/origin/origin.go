// SPDX-License-Identifier: Apache-2.0

// Package origin finds who is behind what arrives at egressd's listeners, and where
// that was to go: by what the kernel noted when it redirected a flow.
package origin

import (
	"errors"
	"net"
	"net/netip"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/probe"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/arrival"
)

// Datapath has what the kernel noted.
type Datapath interface {
	// TakeOrigin takes out the entry of an accepted connection, DatagramOrigin has
	// that of a datagram.
	TakeOrigin(arrival.Arrival) (loader.Origin, bool)
	DatagramOrigin(arrival.Arrival) (loader.Origin, bool)
}

// Workloads knows how workloads are called.
type Workloads interface{ NameOf(number uint32) string }

// Prober is the daemon's probe of itself, whose flows are answered and not decided.
type Prober interface {
	Is(o loader.Origin, known bool, at arrival.Arrival) bool
	Greet(c *net.TCPConn, local netip.Addr)
	Client(p probe.Path, local netip.Addr) dnsproxy.Client
}

// Lookup finds who is behind a flow. It implements dnsproxy.Origins.
type Lookup struct {
	Datapath  Datapath
	Workloads Workloads
	Probe     Prober
}

// errNoOrigin: nobody was redirected from this address. Somebody dialled the
// listener itself.
var errNoOrigin = errors.New("no recorded original destination")

// Identify finds who is behind a connection that arrived at the proxy.
func (l Lookup) Identify(c *net.TCPConn) (forward.Conn, error) {
	at, err := arrival.Of(c)
	src := at.Src
	if err != nil {
		return forward.Conn{Src: src, Layer: flow.Egress}, err
	}
	o, ok := l.Datapath.TakeOrigin(at)
	if l.Probe.Is(o, ok, at) {
		l.Probe.Greet(c, at.Local)
		return forward.Conn{}, forward.ErrServed
	}
	if !ok {
		return forward.Conn{Src: src, Layer: flow.Egress}, errNoOrigin
	}
	return forward.Conn{
		Dst:      o.Dst,
		Src:      src,
		Layer:    flow.Egress,
		Workload: l.Workloads.NameOf(o.Workload), WorkloadID: o.Workload,
		Process: processOf(o),
		Policy:  o.Policy,
		Mode:    o.Mode,
	}, nil
}

// OfConn implements dnsproxy.Origins.
func (l Lookup) OfConn(c net.Conn) (dnsproxy.Client, bool) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return dnsproxy.Client{}, false
	}
	at, err := arrival.Of(tcp)
	if err != nil {
		return dnsproxy.Client{}, false
	}
	o, ok := l.Datapath.TakeOrigin(at)
	if l.Probe.Is(o, ok, at) {
		return l.Probe.Client(probe.DNSTCP, at.Local), true
	}
	return l.client(o), ok
}

// OfDatagram implements dnsproxy.Origins.
func (l Lookup) OfDatagram(src, local netip.AddrPort, slot int, query []byte) (dnsproxy.Client, bool) {
	at := arrival.Arrival{Src: src, Local: local.Addr(), Slot: slot, Token: arrival.QuestionToken(query)}
	o, ok := l.Datapath.DatagramOrigin(at)
	if l.Probe.Is(o, ok, at) {
		return l.Probe.Client(probe.DNSUDP, at.Local), true
	}
	return l.client(o), ok
}

func (l Lookup) client(o loader.Origin) dnsproxy.Client {
	return dnsproxy.Client{
		Workload: l.Workloads.NameOf(o.Workload),
		Process:  processOf(o),
		Policy:   o.Policy,
		Mode:     o.Mode,
		Server:   o.Dst,
		AsServer: o.Interface != 0,
	}
}

func processOf(o loader.Origin) flow.Process {
	return flow.Process{PID: o.PID, UID: o.UID, Command: o.Command}
}
