// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/sockdiag"
	"github.com/egressd/egressd/loader/abi"
)

// Destroy ends a socket in its network namespace, which is looked for at the
// process pid and then at those that rest lists; see sockdiag.Destroy.
func (d *Datapath) Destroy(s sockdiag.Socket, pid int, rest func() ([]int, error)) error {
	d.mu.Lock()
	here := d.config.NetnsCookie // of the listeners
	d.mu.Unlock()
	return s.Destroy(here, pid, rest)
}

// LiveAddresses lists the addresses that the sockets of sockdiag.List go to, and
// those that were dialled for connections to an endpoint. IPv4 addresses are
// unmapped.
func (d *Datapath) LiveAddresses(pids []int) (map[netip.Addr]bool, error) {
	out := map[netip.Addr]bool{}
	if err := d.dialled(func(a netip.AddrPort) { out[a.Addr()] = true }); err != nil {
		return nil, err
	}
	open, err := sockdiag.List(pids)
	if err != nil {
		return nil, err
	}
	for _, s := range open {
		out[s.Dst.Addr()] = true
	}
	return out, nil
}

// dialled calls f with what was dialled for each open connection to the
// endpoint of another address, in any network namespace.
func (d *Datapath) dialled(f func(netip.AddrPort)) error {
	var cookie uint64
	var v bpf.EgressdEgdDialled
	it := d.objs.EgdDialled.Iterate()
	for it.Next(&cookie, &v) {
		f(netip.AddrPortFrom(netip.AddrFrom16(v.Addr).Unmap(), abi.Port(v.Port)))
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read egd_dialled: %w", err)
	}
	return nil
}

// countDialled is exact only while nobody connects.
func (d *Datapath) countDialled() int {
	n := 0
	_ = d.dialled(func(netip.AddrPort) { n++ }) // the part that was read counts
	return n
}
