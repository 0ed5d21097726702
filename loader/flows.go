// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/policy"
)

type (
	flowKey   = bpf.EgressdEgdFlowKey
	flowValue = bpf.EgressdEgdFlow
)

// EGD_F_*, as far as user space reads them.
const (
	flowInbound = 1
	flowFinOut  = 8
	flowFinIn   = 16
	flowReset   = 32
	flowTold    = 128
)

// How long a flow of an interface may be silent before it is forgotten.
const (
	// One that ended: segments of it may still be under way (RFC 9293: two
	// segment lifetimes; Linux waits a minute, most paths take a second).
	endedIdle = 20 * time.Second
	// One that nobody has answered: a SYN is sent again for about a minute.
	openingIdle = time.Minute
	// A connection without keepalives may be silent for long, and what is
	// forgotten is cut if its verdict needed the ClientHello. Two hours is
	// when keepalives begin (RFC 9293 section 3.8.4). An interface that has
	// its share gets no more flows; nobody is thrown out for it.
	tcpIdle = 2*time.Hour + 10*time.Minute
	// Of UDP: as long as a reply may take.
	udpIdle = 2 * time.Minute
)

// limitOf is how long a flow may be silent.
func limitOf(k *flowKey, f *flowValue) time.Duration {
	switch {
	case policy.Transport(k.Proto) == policy.UDP:
		return udpIdle
	case f.Cut != 0 || f.Flags&flowReset != 0 || f.Flags&(flowFinIn|flowFinOut) == flowFinIn|flowFinOut:
		return endedIdle
	case f.Received == 0 || f.Sent == 0:
		return openingIdle
	}
	return tcpIdle
}

// SweepFlows forgets flows of interfaces that are over, and calls ended for
// those that went straight to their destination. Each interface's share is
// counted anew.
func (d *Datapath) SweepFlows(ended func(Event)) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var k flowKey
	var f flowValue
	type gone struct {
		k flowKey
		f flowValue
	}
	var over []gone
	shares := map[uint32]uint64{}
	for index := range d.guards {
		shares[uint32(index)] = 0
	}
	it := d.objs.EgdFlows.Iterate()
	for it.Next(&k, &f) {
		_, guarded := shares[k.Ifindex]
		if !guarded || (now > f.Seen && time.Duration(now-f.Seen) > limitOf(&k, &f)) {
			over = append(over, gone{k, f})
		} else {
			shares[k.Ifindex]++
		}
	}
	// A table that changes while it is read may end the walk early; then only
	// what was seen is removed, and nothing counted.
	if err := it.Err(); err != nil {
		if !errors.Is(err, ebpf.ErrIterationAborted) {
			return fmt.Errorf("read egd_flows: %w", err)
		}
		shares = nil
	}
	for _, g := range over {
		if err := d.dropFlow(&g.k); err != nil {
			return err
		}
		if ended != nil && g.f.Cut == 0 && g.f.Flags&(flowInbound|flowTold) == 0 && policy.Verdict(g.f.Verdict) != policy.Proxy {
			ended(closeOf(&g.k, &g.f, now))
		}
	}
	d.flowCount = 0
	for index, n := range shares {
		d.flowCount += int(n)
		if d.guards[int(index)].Kind == Uplink {
			continue
		}
		if err := d.objs.EgdShares.Put(index, n); err != nil {
			return fmt.Errorf("write egd_shares: %w", err)
		}
	}
	return nil
}

func (d *Datapath) dropFlow(k *flowKey) error {
	for _, m := range []*ebpf.Map{d.objs.EgdFlows, d.objs.EgdFlowBytes, d.objs.EgdFlowHello} {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove from egd_flows: %w", err)
		}
	}
	return nil
}

// closeOf is the event of a flow's end.
func closeOf(k *flowKey, f *flowValue, now uint64) Event {
	e := Event{
		Time: time.Now().Add(-time.Duration(now - f.Seen)), Closed: true,
		Verdict:   policy.Verdict(f.Verdict),
		Src:       netip.AddrPortFrom(netip.AddrFrom16(k.Src).Unmap(), htons(k.Sport)),
		Dst:       netip.AddrPortFrom(netip.AddrFrom16(k.Dst).Unmap(), htons(k.Dport)),
		Transport: policy.Transport(k.Proto),
		Reason:    policy.ReasonAllowed,
		Workload:  f.Workload,
		Policy:    policy.PolicyID(f.Policy),
		Interface: int(k.Ifindex),
		Sent:      f.Sent,
		Received:  f.Received,
	}
	if f.Seen > f.Opened {
		e.Duration = time.Duration(f.Seen - f.Opened)
	}
	return e
}

// AddInbound says that somebody else opened a connection to a workload before
// its interface was guarded: src is the workload's end.
func (d *Datapath) AddInbound(index int, t policy.Transport, src, dst netip.AddrPort) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	k := flowKey{
		Ifindex: uint32(index), Sport: htons(src.Port()), Dport: htons(dst.Port()),
		Src: src.Addr().As16(), Dst: dst.Addr().As16(), Proto: uint8(t),
	}
	v := flowValue{
		Opened: now, Seen: now, Sent: 1, Received: 1,
		Verdict: uint8(policy.Direct), Flags: flowInbound,
	}
	if err := d.objs.EgdFlows.Update(&k, &v, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("write egd_flows: %w", err)
	}
	return nil
}
