// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/policy"
)

// uidAt is where struct inet_diag_msg has the owner (linux/inet_diag.h).
const uidAt = 64

// Owner is the user that a TCP socket of this network namespace is of, by its own
// address and its peer's: who made it.
func Owner(src, dst netip.AddrPort) (uid uint32, err error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	r := &request{transport: policy.TCP, family: unix.AF_INET, cookie: ^uint64(0)}
	r.src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
	r.dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if r.src.Addr().Is6() {
		r.family = unix.AF_INET6
	}
	req.AddData(r)
	msgs, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return 0, fmt.Errorf("look for the socket of %s: %w", src, err)
	}
	if len(msgs) != 1 || len(msgs[0]) < uidAt+4 {
		return 0, fmt.Errorf("look for the socket of %s: %w", src, syscall.ENOENT)
	}
	return binary.NativeEndian.Uint32(msgs[0][uidAt:]), nil
}
