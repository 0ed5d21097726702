// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/sockdiag"
	"github.com/egressd/egressd/policy"
)

// KernelEvent is one decision of the kernel, or the end of a connection that went
// straight to its destination.
type KernelEvent struct {
	Time time.Time
	// Closed: the connection is over; Sent, Received and Duration are set.
	Closed  bool
	Verdict policy.Verdict
	Dst     netip.AddrPort // what was dialled; IPv4 is unmapped; unspecified for sock_create
	// Peer is where the connection really goes: Dst, or the endpoint that was
	// chosen for it.
	Peer      netip.AddrPort
	Transport policy.Transport
	Reason    policy.Reason
	Audit     bool // would be denied, was allowed
	Workload  uint32
	Policy    policy.PolicyID
	Cgroup    uint64
	PID       int
	UID       int
	Command   string
	// Name is the SNI of an inspected connection, "" when none was read.
	Name string
	// Src and Cookie are set for a connection that was open and is denied
	// now: its socket, from Src to Peer, is to be ended with Destroy.
	//
	// Of a flow of an interface, Src is its source, whatever that is worth,
	// and there is no socket to end.
	Src    netip.AddrPort
	Cookie uint64
	// Netns is the cookie of the socket's network namespace; 0: not known.
	Netns uint64
	// Interface is the index of the interface that the flow came by; 0: it
	// came from a socket.
	Interface int
	// Sent and Received count payload bytes; what was sent is acknowledged,
	// and may be one more for the end of the stream.
	Sent, Received uint64
	Duration       time.Duration
}

// reasons maps enum egd_reason.
var reasons = map[uint8]policy.Reason{
	uint8(bpf.EgressdEgdReasonEGD_R_NO_RULE):     policy.ReasonNoRule,
	uint8(bpf.EgressdEgdReasonEGD_R_SOCKET_TYPE): policy.ReasonSocketType,
	uint8(bpf.EgressdEgdReasonEGD_R_NETNS):       policy.ReasonNetns,
	uint8(bpf.EgressdEgdReasonEGD_R_OWN_PORT):    policy.ReasonOwnPort,
	uint8(bpf.EgressdEgdReasonEGD_R_MAP_FULL):    policy.ReasonMapFull,
	uint8(bpf.EgressdEgdReasonEGD_R_NO_WORKLOAD): policy.ReasonNoWorkload,
	uint8(bpf.EgressdEgdReasonEGD_R_NO_CONFIG):   policy.ReasonNoConfig,
	uint8(bpf.EgressdEgdReasonEGD_R_STORAGE):     policy.ReasonStorage,
	uint8(bpf.EgressdEgdReasonEGD_R_TRANSPORT):   policy.ReasonTransport,
	uint8(bpf.EgressdEgdReasonEGD_R_NAME):        policy.ReasonName,
	uint8(bpf.EgressdEgdReasonEGD_R_NO_NAME):     policy.ReasonNoName,
	uint8(bpf.EgressdEgdReasonEGD_R_NOT_TLS):     policy.ReasonNotTLS,
	uint8(bpf.EgressdEgdReasonEGD_R_MALFORMED):   policy.ReasonMalformed,
	uint8(bpf.EgressdEgdReasonEGD_R_CHANGED):     policy.ReasonPolicyChanged,
	uint8(bpf.EgressdEgdReasonEGD_R_NO_ENDPOINT): policy.ReasonNoEndpoint,
	uint8(bpf.EgressdEgdReasonEGD_R_OPTIONS):     policy.ReasonOptions,
	uint8(bpf.EgressdEgdReasonEGD_R_MARTIAN):     policy.ReasonMartian,
	uint8(bpf.EgressdEgdReasonEGD_R_QUOTA):       policy.ReasonQuota,
	uint8(bpf.EgressdEgdReasonEGD_R_SOURCE):      policy.ReasonSource,
	uint8(bpf.EgressdEgdReasonEGD_R_GROUP):       policy.ReasonGroup,
	uint8(bpf.EgressdEgdReasonEGD_R_DEVICE):      policy.ReasonDevice,
	uint8(bpf.EgressdEgdReasonEGD_R_ETHERTYPE):   policy.ReasonEthertype,
	uint8(bpf.EgressdEgdReasonEGD_R_FRAGMENT):    policy.ReasonFragment,
	uint8(bpf.EgressdEgdReasonEGD_R_NO_STATE):    policy.ReasonNoState,
	uint8(bpf.EgressdEgdReasonEGD_R_FRAME):       policy.ReasonFrame,
	uint8(bpf.EgressdEgdReasonEGD_R_SEQUENCE):    policy.ReasonSequence,
	uint8(bpf.EgressdEgdReasonEGD_R_LISTENER):    policy.ReasonNoListener,
}

// lookInterval is how often the ring is read when nothing wakes the reader:
// the kernel programs wake it for denials only.
const lookInterval = 100 * time.Millisecond

// Events calls f for each event of the kernel, in order, until Close or
// DrainEvents, after which it can be called again. A record that cannot be read is skipped.
func (d *Datapath) Events(f func(KernelEvent)) error {
	defer d.draining.Store(false)
	stop := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(lookInterval)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = d.events.Flush() // fails when the ring is closed, which Events finds out
			}
		}
	})
	defer looking.Wait()
	defer close(stop)
	var rec ringbuf.Record
	for {
		err := d.events.ReadInto(&rec)
		switch {
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case errors.Is(err, ringbuf.ErrFlushed):
			if d.draining.Load() {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("read the event ring: %w", err)
		}
		if e, ok := parseEvent(rec.RawSample); ok {
			f(e)
		}
	}
}

// DrainEvents makes Events hand out what is in the ring now and then return.
func (d *Datapath) DrainEvents() error {
	d.draining.Store(true)
	return d.events.Flush()
}

// Cut says that the event is about a connection whose socket is to be ended.
func (e KernelEvent) Cut() bool {
	return e.Src.IsValid() && !e.Closed && !e.Audit && e.Transport == policy.TCP
}

// Socket is the socket of a connection that is to be ended.
func (e KernelEvent) Socket() sockdiag.Socket {
	return sockdiag.Socket{
		Transport: e.Transport, Src: e.Src, Dst: e.Peer, Cgroup: e.Cgroup,
		Cookie: e.Cookie, UID: e.UID, Netns: e.Netns,
	}
}

func parseEvent(raw []byte) (KernelEvent, bool) {
	var e bpf.EgressdEgdEvent
	if len(raw) < int(unsafe.Sizeof(e)) {
		return KernelEvent{}, false
	}
	// The struct is the kernel's, byte by byte (structs.HostLayout);
	// encoding/binary takes ten times as long.
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)), raw)
	at := time.Now()
	if now, err := monotonic(); err == nil && now > e.Time {
		at = at.Add(-time.Duration(now - e.Time))
	}
	reason, ok := reasons[e.Reason]
	switch {
	case e.Reason == uint8(bpf.EgressdEgdReasonEGD_R_NONE):
		reason = policy.ReasonAllowed
	case !ok:
		reason = policy.ReasonNoRule
	}
	out := KernelEvent{
		Time:      at,
		Closed:    e.Kind == uint8(bpf.EgressdEgdEventKindEGD_E_CLOSE),
		Verdict:   policy.Verdict(e.Verdict),
		Dst:       netip.AddrPortFrom(netip.AddrFrom16(e.Dst).Unmap(), htons(e.Dport)),
		Transport: policy.Transport(e.Proto),
		Reason:    reason,
		Audit:     e.Audit != 0,
		Workload:  e.Workload,
		Policy:    policy.PolicyID(e.Policy),
		Cgroup:    e.Cgroup,
		PID:       int(e.Pid),
		UID:       int(e.Uid),
		Command:   command(e.Comm[:]),
		Name:      string(e.Name[:min(int(e.NameLen), len(e.Name))]),
		Cookie:    e.Cookie,
		Netns:     e.Netns,
		Interface: int(e.Ifindex),
		Sent:      e.Sent,
		Received:  e.Received,
	}
	if out.Closed && e.Time > e.Opened {
		out.Duration = time.Duration(e.Time - e.Opened)
	}
	out.Peer = out.Dst
	if e.PeerPort != 0 {
		out.Peer = netip.AddrPortFrom(netip.AddrFrom16(e.Peer).Unmap(), htons(e.PeerPort))
	}
	if e.Sport != 0 {
		out.Src = netip.AddrPortFrom(netip.AddrFrom16(e.Src).Unmap(), htons(e.Sport))
	}
	return out, true
}

// command reads a NUL-terminated comm; generated types have it as int8s or
// uint8s, depending on how C's char is declared.
func command[T int8 | uint8](comm []T) string {
	b := make([]byte, 0, len(comm))
	for _, c := range comm {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
