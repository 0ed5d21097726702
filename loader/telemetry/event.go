// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"net/netip"
	"time"
	"unsafe"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/peek"
	"github.com/egressd/egressd/internal/sockdiag"
	"github.com/egressd/egressd/loader/abi"
	"github.com/egressd/egressd/policy"
)

// KernelEvent is one decision of the kernel, or the end of a connection that went
// straight to its destination.
type KernelEvent struct {
	Time time.Time
	// Closed: the connection is over; Sent, Received and Duration are set.
	Closed bool
	// First says what the first bytes are of a connection that audit mode let pass; ""
	// in all other events. Name is then the SNI, Received what the server had sent before.
	First   Spoken
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

// Spoken is the protocol of first bytes.
type Spoken string

// The protocols. What a server begins is none that egressd reads.
const (
	SpokenTLS   Spoken = "tls"
	SpokenHTTP  Spoken = "http"
	SpokenOther Spoken = "tcp"
)

// spoken reads first bytes as the forwarding core would. What that could not serve by a
// name is SpokenOther: a hello without one, what a server begins, and a request to a
// proxy, whose target is another host than the one that was connected to.
func spoken(e *bpf.EgressdEgdEvent) Spoken {
	switch {
	case e.Received > 0:
		return SpokenOther
	case e.Hello == uint16(bpf.EgressdEgdFirstEGD_FIRST_PART), e.Hello != 0 && e.NameLen > 0:
		return SpokenTLS
	}
	b := e.Name[:min(int(e.NameLen), len(e.Name))]
	switch peek.Classify(b) {
	case peek.HTTP2:
		return SpokenHTTP
	case peek.HTTP1:
		if _, target, _ := bytes.Cut(b, []byte{' '}); len(target) == 0 || target[0] == '/' || target[0] == '*' {
			return SpokenHTTP
		}
	}
	return SpokenOther
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
	if now, err := abi.Now(); err == nil && now > e.Time {
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
		Dst:       netip.AddrPortFrom(netip.AddrFrom16(e.Dst).Unmap(), abi.Port(e.Dport)),
		Transport: policy.Transport(e.Proto),
		Reason:    reason,
		Audit:     e.Audit != 0,
		Workload:  e.Workload,
		Policy:    policy.PolicyID(e.Policy),
		Cgroup:    e.Cgroup,
		PID:       int(e.Pid),
		UID:       int(e.Uid),
		Command:   abi.Command(e.Comm[:]),
		Name:      string(e.Name[:min(int(e.NameLen), len(e.Name))]),
		Cookie:    e.Cookie,
		Netns:     e.Netns,
		Interface: int(e.Ifindex),
		Sent:      e.Sent,
		Received:  e.Received,
	}
	if e.Kind == uint8(bpf.EgressdEgdEventKindEGD_E_FIRST) {
		if out.First = spoken(&e); e.Hello == 0 {
			out.Name = "" // what was said is data of the application
		}
	}
	if out.Closed && e.Time > e.Opened {
		out.Duration = time.Duration(e.Time - e.Opened)
	}
	out.Peer = out.Dst
	if e.PeerPort != 0 {
		out.Peer = netip.AddrPortFrom(netip.AddrFrom16(e.Peer).Unmap(), abi.Port(e.PeerPort))
	}
	if e.Sport != 0 {
		out.Src = netip.AddrPortFrom(netip.AddrFrom16(e.Src).Unmap(), abi.Port(e.Sport))
	}
	return out, true
}
