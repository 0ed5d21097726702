// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"slices"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// draw is u with the endpoint first that is to be used: the one that the workload
// dialled, else one by weight, which was not tried before as long as there are
// others. Those behind it are for when it can't be reached; behind a name that was
// drawn there are names alone, since addresses would be dialled first. rand gives
// uniformly distributed numbers.
func draw(c *Conn, u *policy.Upstream, rand func() uint64, tried []upstreamKey) *policy.Upstream {
	addrs := len(u.Endpoints)
	if addrs+len(u.Names) < 2 {
		return u
	}
	first := dialledEndpoint(c, u.Endpoints)
	if first < 0 || len(tried) > 0 {
		first = byWeight(addrs+len(u.Names), rand(), func(i int) uint64 {
			was, weight := func(k upstreamKey) bool { return k.name == u.Names[i-addrs].Name }, uint32(0)
			if i < addrs {
				ep := &u.Endpoints[i]
				was, weight = func(k upstreamKey) bool { return k.endpoint == ep.Addr && k.socket == ep.Unix }, ep.Weight
			} else {
				weight = u.Names[i-addrs].Weight
			}
			if slices.ContainsFunc(tried, was) {
				return 0
			}
			return uint64(weight)
		})
	}
	out := *u
	if first < addrs {
		out.Endpoints = startingWith(u.Endpoints, first)
	} else {
		out.Endpoints, out.Names = nil, startingWith(u.Names, first-addrs)
	}
	return &out
}

// dialledEndpoint is the endpoint at the address that the workload dialled, -1:
// none. Visitors of a Gateway dial the Gateway.
func dialledEndpoint(c *Conn, endpoints []policy.UpstreamEndpoint) int {
	if c.Layer != flow.Egress {
		return -1
	}
	return slices.IndexFunc(endpoints, func(ep policy.UpstreamEndpoint) bool { return ep.Addr.Addr() == c.Dst.Addr() })
}

// byWeight is the one of count that the number n picks; without any weight, each
// is as good.
func byWeight(count int, n uint64, weight func(int) uint64) int {
	total := uint64(0)
	for i := range count {
		total += weight(i)
	}
	if i := policy.ByWeight(count, total, n, weight); i >= 0 {
		return i
	}
	return int(n % uint64(count))
}

// startingWith is list with its i-th element first, and the others in their order.
func startingWith[T any](list []T, i int) []T {
	out := append(make([]T, 0, len(list)), list[i])
	return append(append(out, list[:i]...), list[i+1:]...)
}
