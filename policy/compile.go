// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// Compile compiles c, whose order it takes as precedence. It returns all
// errors at once (errors.Join, one for each wrong thing, with its position),
// and then no Snapshot: nothing of a wrong configuration is applied. The same
// Config always gives the same Snapshot. A nil Config allows nothing.
func Compile(c *Config) (*Snapshot, error) {
	if c == nil {
		c = &Config{}
	}
	b := &builder{
		cfg:       c,
		hosts:     map[hostname.Pattern]*Host{},
		kube:      map[string]*Service{},
		borrow:    map[[2]string]*Service{},
		matchers:  map[*HTTPMatch]*matcher{},
		upstreams: map[Destination]*Upstream{},
	}
	b.validate()
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	b.services()
	p := b.policy()
	s := &Snapshot{policies: []*Policy{p}, listeners: b.listeners()}
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	sum := sha256.New()
	if err := s.writeText(sum); err != nil {
		return nil, err
	}
	s.hash = hex.EncodeToString(sum.Sum(nil))
	return s, nil
}

// builder holds what a compilation has come to so far.
type builder struct {
	cfg  *Config
	errs []error
	// hosts are the allowed hosts of the policy.
	hosts map[hostname.Pattern]*Host
	names *hostname.Index[*Host]
	// kube has the Kubernetes Services by host, borrow by namespace and name.
	kube   map[string]*Service
	borrow map[[2]string]*Service
	// addresses are what opens without a name, in order of precedence.
	addresses []addressRule
	matchers  map[*HTTPMatch]*matcher
	// upstreams are those of Kubernetes Services, by host and chosen port.
	upstreams map[Destination]*Upstream
}

// errorf notes an error about the object that ref names.
func (b *builder) errorf(ref Ref, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	object := ref.Kind + " " + ref.Namespace + "/" + ref.Name
	if p := ref.Position(); p != "" {
		b.errs = append(b.errs, fmt.Errorf("%s: %s [%s]", p, text, object))
		return
	}
	b.errs = append(b.errs, fmt.Errorf("%s [%s]", text, object))
}

// policy builds the one policy that there is.
func (b *builder) policy() *Policy {
	p := &Policy{id: DefaultPolicy, names: b.names}
	p.hosts = slices.SortedFunc(maps.Values(b.hosts), func(x, y *Host) int {
		return hostname.Compare(x.Pattern, y.Pattern)
	})
	p.vhosts, p.vhostList = b.meshVhosts()
	reaches := map[*HostPort]*reach{}
	for _, h := range p.hosts {
		for _, hp := range h.Ports {
			if hp.Protocol.IsHTTP() || hp.Protocol == ProtocolUnset {
				// A pattern looked up like a name finds the most specific
				// pattern that covers it.
				if v, ok := p.vhosts.Lookup(string(h.Pattern)); ok {
					hp.Routes = v.routes(hp.Number)
				}
			}
			reaches[hp] = newReach(hp.Upstream)
			hp.settle(h, reaches[hp])
		}
	}
	for i := range b.addresses {
		r := &b.addresses[i]
		r.way, r.name = r.rule.static(reaches[r.rule], r.prefix, r.port)
	}
	p.addrs = newAddressTable(b.addresses)
	p.static = p.addrs.openings()
	return p
}
