// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// drawn is where a request or a connection goes. end ends it.
type drawn struct {
	// up has the endpoint that is to be used first. Those behind it are for when
	// that can't be reached; there are none where a DestinationRule says which
	// one is used.
	up *policy.Upstream
	on balance.Picked
	// of is what is known of the service; nil: nothing is to be known of it.
	of *balanced
	// counted: it is one of the service's requests.
	counted bool
	// connected: it is one of the service's connections.
	connected bool
}

// overflow is why a request or connection is refused that a limit of a
// DestinationRule's connectionPool has no room for (Envoy's circuit breakers, UO).
func overflow(r balance.Resource) error {
	return &limits.ExceededError{Reason: policy.ReasonOverflow, Text: "the limit of the DestinationRule's connectionPool on " + r.String() + " is reached"}
}

// errUnhealthy: outlier detection has left no endpoint (Envoy's UH).
func errUnhealthy(err error) error {
	return &limits.ExceededError{Reason: policy.ReasonUnhealthy, Text: err.Error()}
}

// draw chooses the endpoint for a request or connection: where a DestinationRule
// says how, as it says; else the one that the workload dialled, if there is one,
// and the one with fewer requests under way if there is not. key is what there is
// to hash, and tried the endpoints of the attempts before.
func (t *conn) draw(ctx func() context.Context, u *policy.Upstream, key func(*policy.ConsistentHash) balance.Hash, tried []upstreamKey) (d drawn, err error) {
	ruled := u.Balanced()
	bounded := u.Traffic != nil && u.Traffic.Pool.Bounded()
	if ruled && u.Traffic.LoadBalancer != nil && u.Traffic.LoadBalancer.Simple == policy.Passthrough {
		if u, err = t.passthrough(u); err != nil {
			return drawn{}, err
		}
		ruled = false
	}
	if !ruled && !bounded && len(u.Endpoints)+len(u.Names) < 2 {
		return drawn{up: u}, nil
	}
	first := -1
	if !ruled && len(tried) == 0 {
		first = dialledEndpoint(&t.info, u.Endpoints)
		if first >= 0 && !bounded {
			return drawn{up: startingWith(u, first)}, nil
		}
	}
	if ruled && len(u.Names) > 0 && u.Resolution == policy.ResolutionDNS {
		if u, err = t.resolved(ctx(), u); err != nil {
			return drawn{}, &dialError{err}
		}
	}
	if d.of, err = t.core.balancers.of(t.holder(), u); err != nil {
		return drawn{}, err
	}
	if bounded {
		if d.counted = d.of.Take(balance.Requests); !d.counted {
			return drawn{}, overflow(balance.Requests)
		}
	}
	switch {
	case len(u.Endpoints)+len(u.Names) == 0:
		d.up = u
	case first >= 0:
		d.up = startingWith(u, first)
	default:
		err = t.pick(&d, u, ruled, key, tried)
	}
	if err != nil {
		d.end()
		return drawn{}, err
	}
	return d, nil
}

// pick has the balancer choose.
func (t *conn) pick(d *drawn, u *policy.Upstream, only bool, key func(*policy.ConsistentHash) balance.Hash, tried []upstreamKey) (err error) {
	var hash balance.Hash
	if p := u.Traffic; key != nil && p != nil && p.LoadBalancer != nil && p.LoadBalancer.Hash != nil {
		hash = key(p.LoadBalancer.Hash)
	}
	i := 0
	if d.on, i, err = t.core.balancers.pick(d.of, u, hash, tried); err != nil {
		return err
	}
	if d.up = startingWith(u, i); only {
		d.up.Endpoints, d.up.Names = d.up.Endpoints[:min(1, len(d.up.Endpoints))], d.up.Names[:min(1, len(d.up.Names))]
		if len(d.up.Endpoints) > 0 {
			d.up.Names = nil
		}
	}
	return nil
}

// elsewhere says that another endpoint is used than was drawn, of which nothing is
// learned.
func (d *drawn) elsewhere() {
	d.on.End()
	d.on = balance.Picked{}
}

// end ends what was drawn.
func (d *drawn) end() {
	d.on.End()
	if d.counted {
		d.of.Give(balance.Requests)
	}
	if d.connected {
		d.giveConnection()
	}
	*d = drawn{}
}

// takeConnection takes one of the connections that the service may have.
func (d *drawn) takeConnection() error {
	if d.of != nil && !d.of.Take(balance.Connections) {
		return overflow(balance.Connections)
	}
	return nil
}

func (d *drawn) giveConnection() {
	if d.of != nil {
		d.of.Give(balance.Connections)
	}
}

func triedAt(u *policy.Upstream, i int, tried []upstreamKey) bool {
	return slices.ContainsFunc(tried, func(k upstreamKey) bool {
		if i < len(u.Endpoints) {
			return k.endpoint == u.Endpoints[i].Addr && k.socket == u.Endpoints[i].Unix
		}
		return k.name == u.Names[i-len(u.Endpoints)].Name
	})
}

// dialledEndpoint is the endpoint at the address that the workload dialled, -1:
// none. Visitors of a Gateway dial the Gateway.
func dialledEndpoint(c *Conn, endpoints []policy.UpstreamEndpoint) int {
	if c.Layer != flow.Egress || len(endpoints) == 0 {
		return -1
	}
	return slices.IndexFunc(endpoints, func(ep policy.UpstreamEndpoint) bool { return ep.Addr.Addr() == c.Dst.Addr() })
}

// passthrough is u with the address that the workload dialled alone (Envoy's
// ORIGINAL_DST), which must be one of the service's own as with resolution NONE.
func (t *conn) passthrough(u *policy.Upstream) (*policy.Upstream, error) {
	if t.info.Layer != flow.Egress {
		return nil, errUnhealthy(errPassthrough)
	}
	out := *u
	out.Names = nil
	if i := dialledEndpoint(&t.info, u.Endpoints); i >= 0 {
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
func (t *conn) resolved(ctx context.Context, u *policy.Upstream) (*policy.Upstream, error) {
	ctx, cancel := context.WithTimeout(ctx, t.core.connectTimeout(u))
	defer cancel()
	out := *u
	out.Endpoints, out.Names = slices.Clone(u.Endpoints), nil
	var failed error
	for _, n := range u.Names {
		found, err := t.core.o.Dialer.Resolve(ctx, &t.info, u, n.Name)
		if err != nil {
			failed = err
			continue
		}
		found = slices.Clone(found)
		slices.SortFunc(found, netip.Addr.Compare)
		if same := t.ofFamily(found); len(same) > 0 {
			found = same
		}
		for _, a := range found {
			out.Endpoints = append(out.Endpoints, policy.UpstreamEndpoint{Addr: netip.AddrPortFrom(a.Unmap(), n.Port), Weight: n.Weight, Locality: n.Locality})
		}
	}
	if len(out.Endpoints) == 0 {
		return nil, failed
	}
	return &out, nil
}

func (t *conn) ofFamily(addrs []netip.Addr) (same []netip.Addr) {
	for _, a := range addrs {
		if t.info.Layer == flow.Egress && a.Unmap().Is4() == t.info.Dst.Addr().Unmap().Is4() {
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

// sourceHash is the hash of the client's address, for a rule that asks for it.
func (t *conn) sourceHash(c *policy.ConsistentHash) balance.Hash {
	if !c.SourceIP {
		return balance.Hash{} // there is no request to look into
	}
	return balance.HashOf(t.info.Src.Addr().Unmap().String())
}
