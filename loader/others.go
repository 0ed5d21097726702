// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/sockdiag"
	"github.com/egressd/egressd/policy"
)

// OtherSocket is an IP socket that is neither TCP nor UDP: raw, ping, SCTP,
// UDP-Lite. No rule can speak about what it sends.
type OtherSocket struct {
	PID      int
	FD       int
	Protocol int // IPPROTO_*
	cookie   uint64
}

// CutOthers silences the sockets of processes that are neither TCP nor UDP,
// for those that were made before their creation was refused, and returns
// them. With only set nothing is silenced. Processes and descriptors that go
// away meanwhile are left out; who may not be looked into is an error.
func (d *Datapath) CutOthers(pids []int, only bool) ([]OtherSocket, error) {
	var out []OtherSocket
	var errs []error
	seen := map[uint64]bool{} // one socket may have many descriptors
	for _, pid := range pids {
		found, err := d.blockOthersOf(pid, only, seen)
		out = append(out, found...)
		if err != nil && !sockdiag.Gone(err) {
			errs = append(errs, fmt.Errorf("sockets of process %d: %w", pid, err))
		}
	}
	return out, errors.Join(errs...)
}

func (d *Datapath) blockOthersOf(pid int, only bool, seen map[uint64]bool) ([]OtherSocket, error) {
	var out []OtherSocket
	err := sockdiag.OfProcess(pid, func(fd, n int) error {
		s, err := d.blockOther(fd, n, only, seen)
		if s != nil && (err == nil || sockdiag.Gone(err)) {
			s.PID = pid
			out = append(out, *s)
		}
		return err
	})
	return out, err
}

// blockOther silences one socket; nil when it is of another kind.
func (d *Datapath) blockOther(fd, n int, only bool, seen map[uint64]bool) (*OtherSocket, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_INET && domain != unix.AF_INET6 {
		return nil, err
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, err
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return nil, err
	}
	if kind != unix.SOCK_RAW {
		switch protocol {
		case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_MPTCP: // MPTCP sends by TCP sockets
			return nil, nil
		}
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil || seen[cookie] {
		return nil, err
	}
	seen[cookie] = true
	s := &OtherSocket{FD: n, Protocol: protocol, cookie: cookie}
	if only {
		return s, nil
	}
	v := bpf.EgressdEgdSocket{Blocked: blockedSocketType, Reported: 1}
	if err := d.objs.EgdSockets.Update(uint32(fd), &v, ebpf.UpdateAny); err != nil {
		return s, fmt.Errorf("write egd_sockets: %w", err)
	}
	return s, nil
}

// Judged returns the cookies of the TCP sockets of processes whose connect() the
// programs saw, and whose ClientHello if they had to: what a connection sent while
// nobody read it may have been one. A socket that cannot be looked into is not among
// them.
func (d *Datapath) Judged(pids []int) map[uint64]bool {
	out := map[uint64]bool{}
	for _, pid := range pids {
		_ = sockdiag.OfProcess(pid, func(fd, _ int) error {
			var v bpf.EgressdEgdSocket
			if err := d.objs.EgdSockets.Lookup(uint32(fd), &v); err != nil {
				return nil // of another family, or it has nothing
			}
			cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
			reads := v.Verdict == uint8(bpf.EgressdEgdVerdictEGD_INSPECT) && v.Proved == 0
			if err == nil && !reads && (v.Watched|v.Redirected|v.Local) != 0 {
				out[cookie] = true
			}
			return nil
		})
	}
	return out
}

// blockedSocketType is why such a socket is blocked.
const blockedSocketType = uint8(bpf.EgressdEgdReasonEGD_R_SOCKET_TYPE)

// Transport is what events call the socket's protocol.
func (s OtherSocket) Transport() policy.Transport { return policy.Transport(s.Protocol) }
