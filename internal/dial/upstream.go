// SPDX-License-Identifier: Apache-2.0

package dial

import (
	"fmt"
	"net/netip"

	"github.com/egressd/egressd/policy"
)

// Addresses returns where u can be reached: its endpoints, then what lookup
// finds for its names, both in their order. Of a name whose addresses are used
// in turn it is the first alone. Without any address the error is the last of
// lookup's; nil when u has no names.
func Addresses(u *policy.Upstream, lookup func(name string) ([]netip.Addr, error)) ([]netip.AddrPort, error) {
	var addrs []netip.AddrPort
	for _, ep := range u.Endpoints {
		addrs = append(addrs, ep.Addr)
	}
	var failed error
	for _, n := range u.Names {
		found, err := lookup(n.Name)
		if err != nil {
			failed = fmt.Errorf("%s: %w", n.Name, err)
			continue
		}
		if u.Resolution == policy.ResolutionDNSRoundRobin && len(found) > 1 {
			found = found[:1]
		}
		for _, a := range found {
			addrs = append(addrs, netip.AddrPortFrom(a, n.Port))
		}
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	return nil, failed
}
