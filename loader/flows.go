// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/abi"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

type (
	flowKey   = bpf.EgressdEgdFlowKey
	flowValue = bpf.EgressdEgdFlow
)

// The flags of a flow, as far as user space reads them; those of its two ends have
// the same numbers (enum egd_heard_flag).
const (
	flowInbound    = uint8(bpf.EgressdEgdFlowFlagEGD_F_INBOUND)
	flowSNIAllowed = uint8(bpf.EgressdEgdFlowFlagEGD_F_SNI_ALLOWED)
	flowFin        = uint8(bpf.EgressdEgdFlowFlagEGD_F_FIN)
	flowReset      = uint8(bpf.EgressdEgdFlowFlagEGD_F_RESET)
	flowReported   = uint8(bpf.EgressdEgdFlowFlagEGD_F_REPORTED)
)

// How long a flow of an interface may be silent before it is forgotten.
const (
	// One that ended: segments of it may still be under way (RFC 9293: two
	// segment lifetimes; Linux waits a minute, most paths take a second).
	endedIdle = 20 * time.Second
	// One that nobody has answered (a SYN is sent again for about a minute),
	// or whose client says nothing.
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
	case f.Cut != 0 || (f.Flags|f.Heard)&flowReset != 0 || f.Flags&f.Heard&flowFin != 0:
		return endedIdle
	case f.Received == 0 || f.Sent == 0,
		policy.Verdict(f.Verdict) == policy.Inspect && f.Flags&(flowSNIAllowed|flowInbound) == 0:
		return openingIdle
	}
	return tcpIdle
}

// flow is an entry of egd_flows.
type flow struct {
	key   flowKey
	value flowValue
}

// SweepFlows forgets flows of interfaces that are over, and calls ended for
// those that went straight to their destination. Each interface's share is
// counted anew.
func (d *Datapath) SweepFlows(ended func(telemetry.KernelEvent)) error {
	now, err := abi.Now()
	if err != nil {
		return err
	}
	shares := map[uint32]*bpf.EgressdEgdShare{}
	d.mu.Lock()
	for index, g := range d.guarded {
		if g.Kind == WorkloadInterface {
			shares[uint32(index)] = &bpf.EgressdEgdShare{}
		}
	}
	d.mu.Unlock()
	over, whole, err := d.flowsOver(now, shares)
	if err != nil {
		return err
	}
	for _, f := range over {
		if err := d.dropFlow(&f.key); err != nil {
			return err
		}
		if ended != nil && f.value.Cut == 0 && f.value.Flags&(flowInbound|flowReported) == 0 && policy.Verdict(f.value.Verdict) != policy.Proxy {
			ended(closeOf(&f.key, &f.value, now))
		}
	}
	if !whole {
		return nil
	}
	return d.writeShares(shares)
}

// flowsOver reads the table and counts in shares what is not over. A table that
// changes while it is read may end the walk early: whole is false then.
func (d *Datapath) flowsOver(now uint64, shares map[uint32]*bpf.EgressdEgdShare) (over []flow, whole bool, err error) {
	var f flow
	it := d.objs.EgdFlows.Iterate()
	for it.Next(&f.key, &f.value) {
		s := shares[f.key.Ifindex]
		if s == nil || (now > f.value.Seen && time.Duration(now-f.value.Seen) > limitOf(&f.key, &f.value)) {
			over = append(over, f)
		} else {
			s.Flows++
		}
	}
	if err := it.Err(); errors.Is(err, ebpf.ErrIterationAborted) {
		return over, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("read egd_flows: %w", err)
	}
	return over, true, nil
}

// writeShares counts the hellos as well and sets the shares. What came in
// between is not counted until the next time.
func (d *Datapath) writeShares(shares map[uint32]*bpf.EgressdEgdShare) error {
	var k, next flowKey
	err := d.objs.EgdFlowBytes.NextKey(nil, &k)
	for n := 0; err == nil && n < int(d.objs.EgdFlowBytes.MaxEntries()); n++ {
		if s := shares[k.Ifindex]; s != nil {
			s.Hellos++
		}
		if err = d.objs.EgdFlowBytes.NextKey(&k, &next); err == nil {
			k = next
		}
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("read egd_flow_bytes: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flowCount = 0
	for index, s := range shares {
		d.flowCount += int(s.Flows)
		if d.guarded[int(index)] == nil {
			continue // it went in between
		}
		if err := d.objs.EgdShares.Put(index, s); err != nil {
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
func closeOf(k *flowKey, f *flowValue, now uint64) telemetry.KernelEvent {
	e := telemetry.KernelEvent{
		Time: time.Now().Add(-time.Duration(now - f.Seen)), Closed: true,
		Verdict:   policy.Verdict(f.Verdict),
		Src:       netip.AddrPortFrom(netip.AddrFrom16(k.Src).Unmap(), abi.Port(k.Sport)),
		Dst:       netip.AddrPortFrom(netip.AddrFrom16(k.Dst).Unmap(), abi.Port(k.Dport)),
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
	now, err := abi.Now()
	if err != nil {
		return err
	}
	k := flowKey{
		Ifindex: uint32(index), Sport: abi.Port(src.Port()), Dport: abi.Port(dst.Port()),
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
