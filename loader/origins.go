// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/abi"
	"github.com/egressd/egressd/policy"
)

// Origin is who is behind a connection or datagram that arrived at one of
// egressd's listeners.
type Origin struct {
	Dst      netip.AddrPort // what the workload dialled; IPv4 is unmapped
	Workload uint32
	Policy   policy.PolicyID
	Mode     policy.Mode
	Cgroup   uint64
	PID      int // thread group id
	UID      int
	Command  string
	// Interface is the index of the interface that the flow came by, and its
	// packets still bear Dst; 0: it was redirected from a socket of this kernel.
	Interface int
	// Device is the index of the interface that the socket is bound to; 0: none.
	Device int
}

// Arrival is how a flow came to one of egressd's listeners.
type Arrival struct {
	Src netip.AddrPort
	// Local is the address that an accepted connection has here, or the one
	// that the UDP socket is bound to. It tells the way: by loopback, by a gate,
	// or from an interface under the address that was dialled.
	Local netip.Addr
	Slot  int // of the UDP port
	// Token tells the flow from others that bear the same source; see
	// ArrivalOf and QuestionToken.
	Token uint32
}

// ArrivalOf describes an accepted connection. One that came from another network
// namespace or from an interface is known by the sequence number of its SYN, so
// its listener must have saved that (SaveSYN).
func ArrivalOf(c *net.TCPConn) (Arrival, error) {
	src := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	a := Arrival{
		Src:   netip.AddrPortFrom(src.Addr().Unmap().WithZone(""), src.Port()),
		Local: local.Addr().Unmap().WithZone(""),
	}
	if a.Local.IsLoopback() {
		return a, nil
	}
	var err error
	a.Token, err = synToken(c)
	return a, err
}

// QuestionToken is the token of a datagram: its first four bytes.
func QuestionToken(datagram []byte) uint32 {
	if len(datagram) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(datagram)
}

// SaveSYN makes a TCP listener keep the SYN of each connection (tcp(7)
// TCP_SAVE_SYN), for ArrivalOf.
func SaveSYN(fd uintptr) error {
	return os.NewSyscallError("setsockopt TCP_SAVE_SYN", unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_SAVE_SYN, 1))
}

// synToken is the sequence number of the SYN that opened a connection.
func synToken(c syscall.Conn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var syn [128]byte // an IPv6 and a TCP header with all options
	size := uint32(len(syn))
	var errno unix.Errno
	cerr := raw.Control(func(fd uintptr) {
		// unix.GetsockoptString ends at the first zero byte.
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_TCP, unix.TCP_SAVED_SYN,
			uintptr(unsafe.Pointer(&syn)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if cerr != nil {
		return 0, cerr
	}
	if errno != 0 {
		return 0, fmt.Errorf("getsockopt TCP_SAVED_SYN: %w", errno)
	}
	return sequenceOf(syn[:min(int(size), len(syn))])
}

var errSYN = errors.New("the saved SYN has no TCP header where it should be")

// sequenceOf reads the sequence number from the network and transport headers of
// a SYN.
func sequenceOf(syn []byte) (uint32, error) {
	if len(syn) == 0 {
		return 0, errSYN
	}
	at := 40 // IPv6 without extension headers, as the kernel programs want it
	if syn[0]>>4 == 4 {
		at = int(syn[0]&0xf) * 4
	} else if len(syn) <= 6 || syn[6] != unix.IPPROTO_TCP {
		return 0, errSYN
	}
	if len(syn) < at+8 {
		return 0, errSYN
	}
	return binary.BigEndian.Uint32(syn[at+4:]), nil
}

// TakeOrigin looks up and removes the origin of an accepted TCP connection.
// False means that nobody was redirected from there: the caller must refuse.
func (d *Datapath) TakeOrigin(a Arrival) (Origin, bool) {
	return d.takeOrigin(originKey(policy.TCP, a, d.wayOf(a.Local)))
}

// DatagramOrigin looks up the origin of a datagram that arrived on a UDP listener.
// The entry of a socket of this network namespace stays until the socket is
// closed; others are of one datagram and taken out.
func (d *Datapath) DatagramOrigin(a Arrival) (Origin, bool) {
	way := d.wayOf(a.Local)
	if way != byLoopback {
		return d.takeOrigin(originKey(policy.UDP, a, way))
	}
	// What comes from an interface is given to the socket on loopback. It comes
	// first: a machine may bear an address of the node, but who sent it is then
	// in its own entry.
	if a.Local.IsLoopback() && !a.Src.Addr().IsLoopback() {
		if o, ok := d.takeOrigin(originKey(policy.UDP, a, byWire)); ok {
			return o, ok
		}
	}
	key := originKey(policy.UDP, a, byLoopback)
	var v bpf.EgressdEgdOrigin
	if err := d.objs.EgdOrigins.Lookup(&key, &v); err != nil {
		return d.originBefore(key, false)
	}
	return originOf(&v), true
}

func (d *Datapath) takeOrigin(key bpf.EgressdEgdOriginKey) (Origin, bool) {
	var v bpf.EgressdEgdOrigin
	if err := d.objs.EgdOrigins.LookupAndDelete(&key, &v); err != nil {
		return d.originBefore(key, true)
	}
	d.usage.release(v.Workload)
	return originOf(&v), true
}

// The ways of enum egd_way.
const (
	byLoopback = uint8(bpf.EgressdEgdWayEGD_BY_LOOPBACK)
	byGate     = uint8(bpf.EgressdEgdWayEGD_BY_GATE)
	byWire     = uint8(bpf.EgressdEgdWayEGD_BY_WIRE)
)

func (d *Datapath) wayOf(local netip.Addr) uint8 {
	if local.IsLoopback() {
		return byLoopback
	}
	if m := d.devices.Load(); m != nil && (*m)[local] {
		return byLoopback // those sockets are of this network namespace as well
	}
	if g := d.gates.Load(); g != nil && (local == g[0] || local == g[1]) {
		return byGate
	}
	return byWire
}

func originKey(t policy.Transport, a Arrival, way uint8) bpf.EgressdEgdOriginKey {
	k := bpf.EgressdEgdOriginKey{
		Addr:  a.Src.Addr().As16(),
		Port:  abi.Port(a.Src.Port()),
		Proto: uint8(t),
		Way:   way,
	}
	if t == policy.UDP && way != byWire {
		k.Slot = uint8(a.Slot)
	}
	if way != byLoopback {
		k.Token = a.Token
	}
	return k
}

func originOf(v *bpf.EgressdEgdOrigin) Origin {
	// Sockets have a cookie.
	device, by := int(v.Ifindex), 0
	if v.Cookie == 0 {
		device, by = 0, device
	}
	return Origin{
		Dst:       netip.AddrPortFrom(netip.AddrFrom16(v.Dst).Unmap(), abi.Port(v.Dport)),
		Workload:  v.Workload,
		Policy:    policy.PolicyID(v.Policy),
		Mode:      policy.Mode(v.Mode),
		Cgroup:    v.Cgroup,
		PID:       int(v.Pid),
		UID:       int(v.Uid),
		Command:   abi.Command(v.Comm[:]),
		Interface: by,
		Device:    device,
	}
}

// SweepOrigins removes the entries that are older than maxAge: connections
// that were never accepted, datagrams of sockets that live long. It returns
// how many it removed. Sets of endpoints that nothing points to any more go
// with them, and what the programs before these redirected.
func (d *Datapath) SweepOrigins(maxAge time.Duration) (int, error) {
	d.forgetBefore()
	d.mu.Lock()
	err := d.tables.Collect()
	d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	now, err := abi.Now()
	if err != nil {
		return 0, err
	}
	type entry struct {
		key      bpf.EgressdEgdOriginKey
		workload uint32
	}
	var old []entry
	var k bpf.EgressdEgdOriginKey
	var v bpf.EgressdEgdOrigin
	it := d.objs.EgdOrigins.Iterate()
	for it.Next(&k, &v) {
		if now > v.Created && time.Duration(now-v.Created) > maxAge {
			old = append(old, entry{k, v.Workload})
		}
	}
	// A table that changes while it is read may end the walk early; the next
	// sweep goes on.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return 0, fmt.Errorf("read egd_origins: %w", err)
	}
	for _, e := range old {
		switch err := d.objs.EgdOrigins.Delete(&e.key); {
		case err == nil:
			d.usage.release(e.workload)
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			return 0, fmt.Errorf("remove from egd_origins: %w", err)
		}
	}
	return len(old), nil
}
