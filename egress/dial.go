// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy"
)

// Dial connects to u at one of its own addresses: fixed endpoints, learned
// addresses of its name, or what the trusted servers answer now. The address
// that the workload dialled is used only if it is one of these.
func (e *Egress) Dial(ctx context.Context, c *forward.Conn, u *policy.Upstream) (net.Conn, error) {
	switch u.Refusal() { // decided before; nothing leaves that way
	case "":
	case policy.ReasonEndpoint:
		return nil, fmt.Errorf("%w: %s", dial.ErrEndpoint, u.Unsupported())
	default:
		return nil, fmt.Errorf("%w: %s", dial.ErrUnsupported, u.Unsupported())
	}
	if len(u.Endpoints) > 0 && u.Endpoints[0].Unix != "" {
		return e.socket(ctx, u)
	}
	addrs, err := e.addresses(ctx, c, u)
	if err != nil {
		return nil, err
	}
	return e.o.Own.Dial(ctx, addrs)
}

// Resolve returns the addresses of a name of u's, checked as for a dial.
func (e *Egress) Resolve(ctx context.Context, c *forward.Conn, u *policy.Upstream, name string) ([]netip.Addr, error) {
	return e.lookup(ctx, c, u, name)
}

// socket connects to one of the upstream's sockets in egressd's own file
// system, the first one that can be. Which sockets workloads reach is for the
// node's operator to say, not for ServiceEntries.
func (e *Egress) socket(ctx context.Context, u *policy.Upstream) (net.Conn, error) {
	var errs []error
	for i := range u.Endpoints {
		c, err := dial.Socket(ctx, u.Endpoints[i].Unix, e.o.allows)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (e *Egress) addresses(ctx context.Context, c *forward.Conn, u *policy.Upstream) ([]netip.AddrPort, error) {
	addrs, err := dial.Addresses(u, func(name string) ([]netip.Addr, error) { return e.lookup(ctx, c, u, name) })
	switch {
	case len(addrs) > 0:
		return addrs, nil
	case u.Resolution == policy.ResolutionNone:
		return e.original(ctx, c, u)
	case err == nil:
		err = fmt.Errorf("%w: %s has no endpoints", dial.ErrConnect, u.Host)
	}
	return nil, err
}

// lookup finds the addresses of a name: the learned ones, else egressd's own
// resolution. Each is checked again here, at the last moment before the dial.
func (e *Egress) lookup(ctx context.Context, c *forward.Conn, u *policy.Upstream, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return e.guarded([]netip.Addr{a}, u)
	}
	id, _ := e.bound(c)
	found := e.o.Names.AddrsOf(id, name)
	if len(found) == 0 {
		var err error
		if found, err = e.o.Resolver.ResolveFor(ctx, id, name, u.Match); err != nil {
			return nil, fmt.Errorf("%w: %w", dial.ErrResolve, err)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%w: no usable address", dial.ErrResolve)
		}
	}
	return e.guarded(preferred(found, c.Dst.Addr()), u)
}

// original is where a service without endpoints and names (resolution NONE)
// is reached: where the workload dialled, if the address belongs to the host.
func (e *Egress) original(ctx context.Context, c *forward.Conn, u *policy.Upstream) ([]netip.AddrPort, error) {
	dst := c.Dst.Addr()
	if u.Match != nil && slices.ContainsFunc(u.Match.Literal, func(p netip.Prefix) bool { return p.Contains(dst) }) {
		return []netip.AddrPort{netip.AddrPortFrom(dst, u.TargetPort)}, nil
	}
	found, err := e.lookup(ctx, c, u, u.Host)
	if err != nil {
		return nil, err
	}
	out := make([]netip.AddrPort, len(found))
	for i, a := range found {
		out[i] = netip.AddrPortFrom(a, u.TargetPort)
	}
	return out, nil
}

func (e *Egress) guarded(addrs []netip.Addr, u *policy.Upstream) ([]netip.Addr, error) {
	// A destination of the node itself (a Kubernetes Service) has a private
	// address as a rule, but never the node's own by a name.
	o := ipguard.Options{Exact: true, AllowPrivate: true}
	if u.Match != nil {
		o = ipguard.Options{
			Exact:        !u.Match.Pattern.IsWildcard(),
			AllowPrivate: u.Match.AllowPrivate,
			Literal:      u.Match.Literal,
		}
	}
	good := slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		ok, _ := e.o.Guard.Check(a, o)
		return !ok
	})
	if len(good) == 0 {
		return nil, fmt.Errorf("%w: all addresses of %s are reserved (loopback, link-local, the node, metadata services), which no answer may name", dial.ErrAddress, u.Host)
	}
	return good, nil
}
