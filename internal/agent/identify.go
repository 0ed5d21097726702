// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"net"
	"net/netip"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/forward"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// errNoOrigin: nobody was redirected from this address. Somebody dialled the
// listener itself.
var errNoOrigin = errors.New("no recorded original destination")

// identify finds who is behind a connection that arrived at the proxy.
func (a *Agent) identify(c *net.TCPConn) (forward.Conn, error) {
	src := unmapped(c.RemoteAddr().(*net.TCPAddr).AddrPort())
	o, ok := a.datapath.TakeOrigin(src)
	if !ok {
		return forward.Conn{Src: src, Layer: flow.Egress}, errNoOrigin
	}
	return forward.Conn{
		Dst:      o.Dst,
		Src:      src,
		Layer:    flow.Egress,
		Workload: a.workloadName(o.Workload), WorkloadID: o.Workload,
		Process: processOf(o),
		Policy:  o.Policy,
		Mode:    o.Mode,
	}, nil
}

// origins tells the DNS proxy who asked.
type origins struct{ a *Agent }

func (s origins) Origin(t policy.Transport, src netip.AddrPort, slot int) (dnsproxy.Client, bool) {
	var o loader.Origin
	var ok bool
	if t == policy.TCP {
		o, ok = s.a.datapath.TakeOrigin(unmapped(src))
	} else {
		o, ok = s.a.datapath.DatagramOrigin(unmapped(src), slot)
	}
	return dnsproxy.Client{
		Workload: s.a.workloadName(o.Workload),
		Process:  processOf(o),
		Policy:   o.Policy,
		Mode:     o.Mode,
		Server:   o.Dst,
		AsServer: o.Interface != 0,
	}, ok
}

func processOf(o loader.Origin) flow.Process {
	return flow.Process{PID: o.PID, UID: o.UID, Command: o.Command}
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
