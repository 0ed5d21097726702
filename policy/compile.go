// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy/internal/authz"
	"github.com/egressd/egressd/policy/internal/match"
	"github.com/egressd/egressd/policy/internal/validate"
)

// Compile compiles c, whose order it takes as precedence. It returns all
// errors at once (errors.Join, one for each wrong thing, with its position),
// and then no Snapshot: nothing of a wrong configuration is applied. The same
// Config always gives the same Snapshot. A nil Config allows nothing.
func Compile(c *Config) (*Snapshot, error) { return new(Snapshot).Update(c) }

// Update compiles c as Compile does, and takes over from s what has not
// changed: Services that are the same pointers must not have changed. One
// changed ServiceEntry costs what it opens, not what all of them do. Policies
// keep their ids. s stays what it is.
func (s *Snapshot) Update(c *Config) (*Snapshot, error) {
	if c == nil {
		c = &Config{}
	}
	return newBuilder(c, s).compile()
}

// compileUnshared is Compile, but every policy has hosts of its own: a test compares
// them with those that policies share.
func compileUnshared(c *Config) (*Snapshot, error) {
	b := newBuilder(c, new(Snapshot))
	b.unshared = true
	return b.compile()
}

func (b *builder) compile() (*Snapshot, error) {
	b.validate()
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	b.index.update(b.old, b.removed, b.added)
	b.covered = b.index.names
	b.auth = authz.NewCatalog(b.cfg.Authorizations, b.rootNamespace(), b.trustDomain())
	out := &Snapshot{index: b.index}
	b.policies(out)
	out.listeners = b.listeners(out)
	b.conflicts()
	out.warnings = b.warnings
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	out.seal(b.was)
	return out, nil
}

// builder holds what a compilation has come to so far.
type builder struct {
	cfg   *Config
	old   *index // of the snapshot before; nil: there is none
	was   *Snapshot
	index *index
	errs  []error
	// removed and added are the external services that differ from those of
	// the snapshot before, each in its order.
	removed, added []*Service
	// covered are the names of Kubernetes Services that wildcards of other
	// namespaces cover.
	covered map[string]*Service
	// ranks are the positions of the services, once somebody has asked.
	ranks map[*Service]int
	// upstreams are those of Kubernetes Services, by host and chosen port.
	upstreams map[Destination]*Upstream
	auth      *authz.Catalog
	// authScopes and destinationScopes are made once for each class.
	authScopes        map[*identityClass]*authz.Compiler
	destinationScopes map[*identityClass]*destinationScope
	// gatewayPorts are those that rules lead to, by the services that
	// stand for them; gateways are all Gateways by their keys.
	gatewayPorts map[gatewayPortKey]*gatewayPort
	gateways     map[string]*Gateway
	// nextHops are the gateway ports of the policy that is being compiled.
	nextHops map[*gatewayPort]*GatewayListener
	// imports are the hosts that rules lead to in the policy that is being
	// compiled, and that its Sidecar does not show; declaring has the services
	// that declare each destination, once somebody has asked.
	imports   map[importKey]*Host
	declaring map[hostname.Pattern][]*Service
	// inside are the cluster's prefixes.
	inside []netip.Prefix
	// consent says which node-local places services may lead to.
	consent Consent
	// reported are the errors and warnings there are, each once.
	reported  map[string]bool
	warnings  []Warning
	selectors *selectorsInUse
	rewrites  map[*HTTPRule]*regexp.Regexp
	corses    map[*HTTPRule]*match.CORSFilter
	// unchanged is what is as it was, once somebody has asked.
	unchanged *unchanged
	// made are the policies that are compiled already, which others may have
	// hosts from; unshared: none does.
	made     []*Policy
	unshared bool
	// nearest are the VirtualServices in a namespace's order.
	nearest map[string][]*VirtualService
}

func newBuilder(c *Config, s *Snapshot) *builder {
	b := &builder{
		cfg: c, was: s, old: s.index, upstreams: map[Destination]*Upstream{},
		authScopes: map[*identityClass]*authz.Compiler{}, destinationScopes: map[*identityClass]*destinationScope{},
		gatewayPorts: map[gatewayPortKey]*gatewayPort{}, gateways: map[string]*Gateway{},
		reported: map[string]bool{}, rewrites: map[*HTTPRule]*regexp.Regexp{}, corses: map[*HTTPRule]*match.CORSFilter{},
		nearest: map[string][]*VirtualService{},
		consent: NewConsent(c.AllowedEndpoints), inside: insidePrefixes(&c.Cluster),
	}
	for _, g := range c.Gateways {
		b.gateways[g.Key()] = g
	}
	b.index = newIndex(c, s.index)
	var before []*Service
	if b.old != nil {
		before = b.old.cfg.Services
	}
	b.removed, b.added = difference(before, c.Services)
	return b
}

// difference returns what two lists do not have in common at their beginnings
// and ends, with the Services that are in both middles left out when their
// order there is the same.
func difference(before, after []*Service) (removed, added []*Service) {
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	return before, after
}

// rank is the position of a service, or of the one that it is a part of.
func (b *builder) rank(s *Service) int {
	if b.ranks == nil {
		b.ranks = make(map[*Service]int, len(b.cfg.Services))
		for i, s := range b.cfg.Services {
			b.ranks[s] = i
		}
	}
	return b.ranks[whole(s)]
}

// errorf notes an error about the object that ref names.
func (b *builder) errorf(ref Ref, format string, args ...any) {
	text := quote.Text(fmt.Sprintf(format, quote.Args(args)...))
	if key := "error " + ref.String() + " " + text; ref != (Ref{}) {
		if b.reported[key] {
			return
		}
		b.reported[key] = true
	}
	b.errs = append(b.errs, &ObjectError{ref, text})
}

// ObjectError is an object that Compile refuses. Without it the rest is good,
// or refused for other objects.
type ObjectError struct {
	Ref  Ref
	Text string
}

// Error is the text with the place and the name of the object.
func (e *ObjectError) Error() string {
	text := fmt.Sprintf("%s [%s %s/%s]", e.Text, e.Ref.Kind, e.Ref.Namespace, e.Ref.Name)
	if p := e.Ref.Position(); p != "" {
		return p + ": " + text
	}
	return text
}

// Warning is something about an object that is left out, or does not do what
// its author may think.
type Warning struct {
	Ref  Ref
	Text string
}

// warnf notes a warning about the object that ref names, once.
func (b *builder) warnf(ref Ref, format string, args ...any) {
	w := Warning{ref, quote.Text(fmt.Sprintf(format, quote.Args(args)...))}
	if key := "warning " + ref.String() + " " + w.Text; !b.reported[key] {
		b.reported[key] = true
		b.warnings = append(b.warnings, w)
	}
}

// policies compiles one policy for each group of workloads. Groups that are
// told apart and come to the same share one.
func (b *builder) policies(out *Snapshot) {
	scopes, of := b.identityClasses()
	ids := make([]PolicyID, len(scopes))
	out.ids, out.next = map[string]PolicyID{}, max(b.was.next, DefaultPolicy+1)
	had := map[string]PolicyID{} // by workload
	for _, w := range b.was.workloads {
		had[w.Key()] = w.Policy
	}
	bySum := map[digest]*Policy{}
	byView := map[string]*Policy{}
	for i, sc := range scopes {
		p := b.policy(sc, b.was.byKey(sc.key), byView[sc.view])
		if byView[sc.view] == nil {
			byView[sc.view] = p
		}
		if same := bySum[p.sum]; same != nil {
			ids[i] = same.id
			out.ids[sc.key] = same.id
			continue
		}
		p.id = DefaultPolicy
		if i > 0 {
			p.id = b.identify(out, had, of, i)
		}
		bySum[p.sum] = p
		ids[i], out.ids[sc.key] = p.id, p.id
		out.policies = append(out.policies, p)
		if !b.unshared {
			b.made = append(b.made, p)
		}
	}
	slices.SortFunc(out.policies, func(x, y *Policy) int { return int(x.id) - int(y.id) })
	for i, w := range b.cfg.Workloads {
		out.workloads = append(out.workloads, BoundWorkload{Workload: w, Policy: ids[of[i]]})
	}
}

// identify numbers the policy of the i-th group: with the number that one of
// its workloads had before, if no other policy has it, so that what was
// learned and what is in the kernel's tables under it stays good.
func (b *builder) identify(out *Snapshot, had map[string]PolicyID, of []int, i int) PolicyID {
	for w, group := range of {
		if group != i {
			continue
		}
		id, ok := had[b.cfg.Workloads[w].Key()]
		taken := func(p *Policy) bool { return p.id == id }
		if ok && id != DefaultPolicy && !slices.ContainsFunc(out.policies, taken) {
			return id
		}
	}
	out.next++
	return out.next - 1
}

// validate notes what Compile could not give a safe meaning to.
func (b *builder) validate() {
	for _, s := range b.added { // the others were good before
		validate.Service(s, b.errorf)
	}
	for _, vs := range b.cfg.VirtualServices {
		validate.VirtualService(vs, b.errorf)
		for _, r := range vs.HTTP {
			for _, m := range r.Matches {
				b.matcher(r, m)
			}
		}
	}
	for _, a := range b.cfg.Authorizations {
		authz.Validate(a, b.errorf)
	}
	for _, g := range b.cfg.Gateways {
		validate.Gateway(g, b.errorf)
	}
}
