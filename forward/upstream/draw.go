// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Drawn is where a request or a connection goes. end ends it.
type Drawn struct {
	// Upstream has the endpoint that is to be used first. Those behind it are for when
	// that can't be reached; there are none where a DestinationRule says which
	// one is used.
	Upstream *policy.Upstream
	Picked   balance.Picked
	// Balanced is what is known of the service; nil: nothing is to be known of it.
	Balanced *Balanced
	// counted: it is one of the service's requests.
	counted bool
	// connected: it is one of the service's connections.
	connected bool
}

// Draw is DrawAgain where only the endpoints of the attempts before count.
func (p *Conns) Draw(ctx func() context.Context, u *policy.Upstream, key func(*policy.ConsistentHash) balance.Hash, tried []ConnKey) (Drawn, error) {
	return p.DrawAgain(ctx, u, key, Attempts{Tried: tried})
}

// DrawAgain chooses the endpoint for a request or connection: where a DestinationRule
// says how, as it says; else the one that the workload dialled, if there is one,
// and the one with fewer requests under way if there is not. key is what there is
// to hash.
func (p *Conns) DrawAgain(ctx func() context.Context, u *policy.Upstream, key func(*policy.ConsistentHash) balance.Hash, before Attempts) (d Drawn, err error) {
	ruled := u.Balanced()
	bounded := u.Traffic != nil && u.Traffic.Pool.Bounded()
	if ruled && u.Traffic.LoadBalancer != nil && u.Traffic.LoadBalancer.Simple == policy.Passthrough {
		if u, err = p.passthrough(u); err != nil {
			return Drawn{}, err
		}
		ruled = false
	}
	if !ruled && !bounded && len(u.Endpoints)+len(u.Names) < 2 {
		return Drawn{Upstream: u}, nil
	}
	first := -1
	if !ruled && len(before.Tried) == 0 {
		first = dialledEndpoint(p.info, u.Endpoints)
		if first >= 0 && !bounded {
			return Drawn{Upstream: startingWith(u, first)}, nil
		}
	}
	if ruled && len(u.Names) > 0 && u.Resolution == policy.ResolutionDNS {
		if u, err = p.resolved(ctx(), u); err != nil {
			return Drawn{}, &DialError{Err: err}
		}
	}
	if d.Balanced, err = p.m.balancers.of(p.info.Owner(), u); err != nil {
		return Drawn{}, err
	}
	if bounded {
		if d.counted = d.Balanced.Take(balance.Requests); !d.counted {
			return Drawn{}, overflow(balance.Requests)
		}
	}
	switch {
	case len(u.Endpoints)+len(u.Names) == 0:
		d.Upstream = u
	case first >= 0:
		d.Upstream = startingWith(u, first)
	default:
		err = p.pick(&d, u, ruled, key, before)
	}
	if err != nil {
		d.End()
		return Drawn{}, err
	}
	return d, nil
}

// pick has the balancer choose.
func (p *Conns) pick(d *Drawn, u *policy.Upstream, only bool, key func(*policy.ConsistentHash) balance.Hash, before Attempts) (err error) {
	var hash balance.Hash
	if rule := u.Traffic; key != nil && rule != nil && rule.LoadBalancer != nil && rule.LoadBalancer.Hash != nil {
		hash = key(rule.LoadBalancer.Hash)
	}
	i := 0
	if d.Picked, i, err = p.m.balancers.pick(d.Balanced, u, hash, before); err != nil {
		return err
	}
	if d.Upstream = startingWith(u, i); only {
		d.Upstream.Endpoints, d.Upstream.Names = d.Upstream.Endpoints[:min(1, len(d.Upstream.Endpoints))], d.Upstream.Names[:min(1, len(d.Upstream.Names))]
		if len(d.Upstream.Endpoints) > 0 {
			d.Upstream.Names = nil
		}
	}
	return nil
}

// Elsewhere says that another endpoint is used than was drawn, of which nothing is
// learned.
func (d *Drawn) Elsewhere() {
	d.Picked.End()
	d.Picked = balance.Picked{}
}

// End ends what was drawn.
func (d *Drawn) End() {
	d.Picked.End()
	if d.counted {
		d.Balanced.Give(balance.Requests)
	}
	if d.connected {
		d.giveConnection()
	}
	*d = Drawn{}
}

// takeConnection takes one of the connections that the service may have.
func (d *Drawn) takeConnection() error {
	if d.Balanced != nil && !d.Balanced.Take(balance.Connections) {
		return overflow(balance.Connections)
	}
	return nil
}

func (d *Drawn) giveConnection() {
	if d.Balanced != nil {
		d.Balanced.Give(balance.Connections)
	}
}

// dialledEndpoint is the endpoint at the address that the workload dialled, -1:
// none. Visitors of a Gateway dial the Gateway.
func dialledEndpoint(c *downstream.Conn, endpoints []policy.UpstreamEndpoint) int {
	if c.Layer != flow.Egress || len(endpoints) == 0 {
		return -1
	}
	return slices.IndexFunc(endpoints, func(ep policy.UpstreamEndpoint) bool { return ep.Addr.Addr() == c.Dst.Addr() })
}

// passthrough is u with the address that the workload dialled alone (Envoy's
// ORIGINAL_DST), which must be one of the service's own as with resolution NONE.
func (p *Conns) passthrough(u *policy.Upstream) (*policy.Upstream, error) {
	if p.info.Layer != flow.Egress {
		return nil, errUnhealthy(errPassthrough)
	}
	out := *u
	out.Names = nil
	if i := dialledEndpoint(p.info, u.Endpoints); i >= 0 {
		out.Endpoints = u.Endpoints[i : i+1]
		return &out, nil
	}
	out.Endpoints, out.Resolution = nil, policy.ResolutionNone
	return &out, nil
}

var errPassthrough = errors.New("load balancing is PASSTHROUGH, and a visitor of a gateway dials no endpoint")

// resolved is u with the addresses of its names as endpoints, which is what load
// is balanced among with resolution DNS (Envoy's STRICT_DNS; each has the weight
// of its name). Where the workload has chosen a family of addresses, it is that.
func (p *Conns) resolved(ctx context.Context, u *policy.Upstream) (*policy.Upstream, error) {
	ctx, cancel := context.WithTimeout(ctx, p.m.ConnectTimeout(u))
	defer cancel()
	list, from := slices.Clone(u.Endpoints), make([]int, len(u.Endpoints))
	for i := range from {
		from[i] = i
	}
	var failed error
	for i, n := range u.Names {
		found, err := p.m.o.Dialer.Resolve(ctx, p.info, u, n.Name)
		if err != nil {
			failed = err
			continue
		}
		found = slices.Clone(found)
		slices.SortFunc(found, netip.Addr.Compare)
		if same := p.ofFamily(found); len(same) > 0 {
			found = same
		}
		for _, a := range found {
			from = append(from, len(u.Endpoints)+i)
			list = append(list, policy.UpstreamEndpoint{Addr: netip.AddrPortFrom(a.Unmap(), n.Port), Weight: n.Weight, Locality: n.Locality})
		}
	}
	if len(list) == 0 {
		return nil, failed
	}
	return u.WithEndpoints(list, from), nil
}

func (p *Conns) ofFamily(addrs []netip.Addr) (same []netip.Addr) {
	for _, a := range addrs {
		if p.info.Layer == flow.Egress && a.Unmap().Is4() == p.info.Dst.Addr().Unmap().Is4() {
			same = append(same, a)
		}
	}
	return same
}

// startingWith is u with its i-th endpoint or name first, and the others in their
// order. Behind a name there are names alone, since addresses would be dialled
// first.
func startingWith(u *policy.Upstream, i int) *policy.Upstream {
	out := *u
	if addrs := len(u.Endpoints); i < addrs {
		out.Endpoints = first(u.Endpoints, i)
	} else {
		out.Endpoints, out.Names = nil, first(u.Names, i-addrs)
	}
	return &out
}

// first is list with its i-th element first.
func first[T any](list []T, i int) []T {
	out := append(make([]T, 0, len(list)), list[i])
	return append(append(out, list[:i]...), list[i+1:]...)
}

// SourceHash is the hash of the client's address, for a rule that asks for it.
func (p *Conns) SourceHash(c *policy.ConsistentHash) balance.Hash {
	if !c.SourceIP {
		return balance.Hash{} // there is no request to look into
	}
	return balance.HashOf(p.info.Src.Addr().Unmap().String())
}
