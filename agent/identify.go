// SPDX-License-Identifier: Apache-2.0

package agent

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

// errNoOrigin: nobody was redirected from this address. Somebody dialled the
// listener itself.
var errNoOrigin = errors.New("no recorded original destination")

// identify finds who is behind a connection that arrived at the proxy.
func (a *Agent) identify(c *net.TCPConn) (forward.Conn, error) {
	at, err := arrival.Of(c)
	src := at.Src
	if err != nil {
		return forward.Conn{Src: src, Layer: flow.Egress}, err
	}
	o, ok := a.datapath.TakeOrigin(at)
	if a.probe.Is(o, ok, at) {
		a.probe.Greet(c, at.Local)
		return forward.Conn{}, forward.ErrServed
	}
	if !ok {
		return forward.Conn{Src: src, Layer: flow.Egress}, errNoOrigin
	}
	return forward.Conn{
		Dst:      o.Dst,
		Src:      src,
		Layer:    flow.Egress,
		Workload: a.workloads.NameOf(o.Workload), WorkloadID: o.Workload,
		Process: processOf(o),
		Policy:  o.Policy,
		Mode:    o.Mode,
	}, nil
}

// origins tells the DNS proxy who asked.
type origins struct{ a *Agent }

func (s origins) OfConn(c net.Conn) (dnsproxy.Client, bool) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return dnsproxy.Client{}, false
	}
	at, err := arrival.Of(tcp)
	if err != nil {
		return dnsproxy.Client{}, false
	}
	o, ok := s.a.datapath.TakeOrigin(at)
	if s.a.probe.Is(o, ok, at) {
		return s.a.probe.Client(probe.DNSTCP, at.Local), true
	}
	return s.client(o), ok
}

func (s origins) OfDatagram(src, local netip.AddrPort, slot int, query []byte) (dnsproxy.Client, bool) {
	at := arrival.Arrival{Src: src, Local: local.Addr(), Slot: slot, Token: arrival.QuestionToken(query)}
	o, ok := s.a.datapath.DatagramOrigin(at)
	if s.a.probe.Is(o, ok, at) {
		return s.a.probe.Client(probe.DNSUDP, at.Local), true
	}
	return s.client(o), ok
}

func (s origins) client(o loader.Origin) dnsproxy.Client {
	return dnsproxy.Client{
		Workload: s.a.workloads.NameOf(o.Workload),
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
