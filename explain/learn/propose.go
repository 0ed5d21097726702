// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/allowlist"
)

const (
	apiVersion = "networking.istio.io/v1"
	// prefix begins the names of objects.
	prefix = "learned"
)

// Options say what is known beside the flows.
type Options struct {
	// Identities are the workloads that are described; nil: nobody has said.
	Identities []policy.Identity
	// Exact proposes no wildcards for names with generated labels.
	Exact bool
	// Adds says that objects are to stand beside those of a policy: no Sidecar is
	// proposed then, which would hide what that opens.
	Adds bool
}

// Proposal is a policy that allows what was seen.
type Proposal struct {
	objects []object
	// Notes say what is not in it, one line each.
	Notes []string
	// Unknown are names that were asked for and never connected to.
	Unknown []string
}

// object is one to be written, with comments on it and on its ports.
type object struct {
	name, namespace string
	value           any // *allowlist.ServiceEntry or sidecar
	comments        []string
	// ports has comments by the index of a port.
	ports []string
}

// dest is what one ServiceEntry is about.
type dest struct {
	host hostname.Pattern
	addr netip.Addr
	udp  bool
}

func (d dest) compare(o dest) int {
	u := func(b bool) string { return fmt.Sprint(b) }
	return cmp.Or(cmp.Compare(d.host, o.host), d.addr.Compare(o.addr), cmp.Compare(u(d.udp), u(o.udp)))
}

// sum is what was seen on one port of a dest.
type sum struct {
	spoken
	rows []*row
}

func (s *sum) add(r *row) {
	s.tls, s.http, s.opaque = s.tls || r.tls, s.http || r.http, s.opaque || r.opaque
	s.rows = append(s.rows, r)
}

// space is one namespace.
type space struct {
	name  string
	dests map[dest]map[uint16]*sum
	wildcards
	// under has the rows of other hosts that a wildcard opens as well, at says for each
	// row where it is.
	under map[*row]hostname.Pattern
	at    map[*row]dest
}

// Propose makes the policy. The same flows make the same text.
func (l *Learner) Propose(o Options) Proposal {
	var p Proposal
	rows := l.sorted()
	classes := classesOf(rows, o.Identities)
	byNamespace := map[string][]*class{}
	for _, c := range classes {
		byNamespace[c.namespace] = append(byNamespace[c.namespace], c)
	}
	private := false // whether a namespace has what others are not to have
	for _, id := range o.Identities {
		private = private || id.Namespace != policy.DefaultNamespace
	}
	for ns := range byNamespace {
		private = private || ns != policy.DefaultNamespace
	}
	for _, ns := range slices.Sorted(maps.Keys(byNamespace)) {
		s := newSpace(ns, byNamespace[ns], o.Exact)
		names := p.entries(s, private)
		p.sidecars(s, byNamespace[ns], names, o, l.inside > 0)
		p.noteNames(s)
	}
	p.noteRest(l)
	p.accept()
	return p
}

func newSpace(ns string, classes []*class, exact bool) *space {
	var rows []*row
	for _, c := range classes {
		rows = append(rows, c.rows...)
	}
	slices.SortFunc(rows, func(a, b *row) int { return a.compare(b.key) })
	s := &space{name: ns, wildcards: findWildcards(rows, exact), under: map[*row]hostname.Pattern{}, at: map[*row]dest{}}
	s.fill(rows)
	if s.cover(rows) {
		s.fill(rows)
	}
	return s
}

// fill sums rows up by where they are.
func (s *space) fill(rows []*row) {
	s.dests = map[dest]map[uint16]*sum{}
	for _, r := range rows {
		if s.no[r.host] != nil {
			continue
		}
		d := dest{host: cmp.Or(s.under[r], s.of[r.host]), addr: r.addr, udp: r.udp}
		s.at[r] = d
		ports := s.dests[d]
		if ports == nil {
			ports = map[uint16]*sum{}
			s.dests[d] = ports
		}
		if ports[r.port] == nil {
			ports[r.port] = &sum{}
		}
		ports[r.port].add(r)
	}
}

// cover leaves to a wildcard what it opens of other hosts, and says whether there is any.
func (s *space) cover(rows []*row) bool {
	found := false
	for _, r := range rows {
		if r.host == "" || r.private || s.no[r.host] != nil || s.of[r.host].IsWildcard() {
			continue
		}
		for _, p := range slices.Sorted(maps.Keys(s.why)) {
			if p.Matches(r.host) && s.opens(p, r) {
				s.under[r], found = p, true
				break
			}
		}
	}
	return found
}

// opens says whether a wildcard has the port of a row, for the same protocol.
func (s *space) opens(p hostname.Pattern, r *row) bool {
	there := s.dests[dest{host: p, udp: r.udp}][r.port]
	if there == nil {
		return false
	}
	own := s.dests[s.at[r]][r.port]
	a, _ := there.protocol(r.key)
	b, _ := own.protocol(r.key)
	return a == b
}

func (s *space) protocol(d dest, port uint16) (policy.Protocol, bool) {
	return s.dests[d][port].protocol(key{host: string(d.host), port: port, udp: d.udp})
}

// entries writes the ServiceEntries of a namespace, and returns the host of each.
func (p *Proposal) entries(s *space, private bool) map[dest]string {
	taken := map[string]bool{}
	hosts := map[dest]string{}
	for _, d := range slices.SortedFunc(maps.Keys(s.dests), dest.compare) {
		item := allowlist.Item{Host: d.host}
		if d.host == "" {
			item.Prefix = netip.PrefixFrom(d.addr, d.addr.BitLen())
		}
		o := object{namespace: s.name}
		var rows []*row
		for _, number := range slices.Sorted(maps.Keys(s.dests[d])) {
			protocol, assumed := s.protocol(d, number)
			item.Ports = append(item.Ports, allowlist.ItemPort{Number: number, Protocol: protocol})
			text := summary(s.dests[d][number].rows)
			if assumed {
				text += "; nobody read what is sent, the protocol is the port's usual one"
			}
			o.ports = append(o.ports, text)
			rows = append(rows, s.dests[d][number].rows...)
		}
		o.name = item.Name(prefix, d.udp, func(n string) bool { return taken[n] })
		taken[o.name] = true
		e := item.Entry(o.name)
		e.Metadata.Namespace = namespaceField(s.name)
		if private {
			e.Spec.ExportTo = []string{"."}
		}
		o.value, hosts[d] = &e, e.Spec.Hosts[0]
		o.comments = s.about(d, rows)
		p.objects = append(p.objects, o)
	}
	return hosts
}

// about says why an object is there.
func (s *space) about(d dest, rows []*row) (out []string) {
	if why := s.why[d.host]; why != "" {
		out = append(out, why)
	}
	var commands, shared []string
	for _, r := range rows {
		commands, shared = append(commands, r.commands...), append(shared, r.shared...)
	}
	if by := few(commands); by != "" {
		out = append(out, "by "+by)
	}
	if len(shared) > 0 {
		out = append(out, "which one was meant is not known; they have an address in common: "+few(shared))
	}
	return out
}

// few are texts, each once, sorted, some of them.
func few(list []string) string {
	list = slices.Clone(list)
	slices.Sort(list)
	list = slices.Compact(list)
	out := make([]string, 0, maxNames)
	for _, s := range list[:min(len(list), maxNames)] {
		out = append(out, word(s))
	}
	if n := len(list) - len(out); n > 0 {
		out = append(out, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(out, ", ")
}

// summary is how often and when.
func summary(rows []*row) string {
	count, denied := 0, 0
	var first, last time.Time
	for _, r := range rows {
		count, denied = count+max(r.count, 1), denied+r.denied
		first, last = earlier(first, r.first), later(last, r.last)
	}
	text := fmt.Sprintf("%d times", count)
	if count == 1 {
		text = "once"
	}
	if text += " at " + stamp(first); stamp(first) != stamp(last) {
		text = strings.Replace(text, " at ", ", first ", 1) + ", last " + stamp(last)
	}
	if denied > 0 && denied < count {
		text += fmt.Sprintf("; the policy of then denies %d of them", denied)
	}
	return text
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// sidecars writes the Sidecars of a namespace whose workloads differ.
func (p *Proposal) sidecars(s *space, classes []*class, hosts map[dest]string, o Options, inside bool) {
	declared := map[string]map[need]bool{}
	for _, c := range classes {
		for _, r := range c.rows {
			d, ok := s.at[r]
			if !ok {
				continue
			}
			n := need{hosts[d], r.port, r.udp}
			c.needs[n] = true
			if declared[n.host] == nil {
				declared[n.host] = map[need]bool{}
			}
			declared[n.host][n] = true
		}
	}
	workloads := 0
	for _, c := range classes {
		workloads += len(c.workloads)
	}
	share(classes)
	where := "namespace " + word(s.name)
	switch {
	case o.Identities == nil && workloads > 1:
		p.note("the labels of the workloads of %s are not known, so each may do what all did; --workloads FILE gives each what it did itself", where)
		return
	case len(classes) == 1 || !differ(classes):
		return
	case o.Adds:
		p.note("workloads of %s need different things, and each of them gets all; a Sidecar, which tells them apart, would hide what the policy opens", where)
		return
	case inside:
		p.note("workloads of %s need different things, and each of them gets all; a Sidecar, which tells them apart, would close what is inside of the cluster", where)
		return
	}
	protocols := map[need]policy.Protocol{}
	for d, host := range hosts {
		for port := range s.dests[d] {
			protocols[need{host, port, d.udp}], _ = s.protocol(d, port)
		}
	}
	taken := map[string]bool{}
	for _, c := range classes {
		if len(c.needs) == 0 {
			continue
		}
		name := c.sidecarName(func(n string) bool { return taken[n] })
		taken[name] = true
		p.objects = append(p.objects, object{
			name: name, namespace: s.name, value: c.sidecarOf(name, declared, func(n need) policy.Protocol { return protocols[n] }),
			comments: []string{"what " + few(c.workloads) + " did, and no other workload of the namespace"},
		})
	}
}

// sidecarName is a name that stays as long as the labels do.
func (c *class) sidecarName(taken func(string) bool) string {
	var values []string
	for _, k := range slices.Sorted(maps.Keys(c.labels)) {
		values = append(values, c.labels[k])
	}
	if len(values) == 0 {
		values = []string{"rest"}
	}
	text := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, strings.Join(values, "-"))
	text = prefix + "-" + strings.Trim(text[:min(len(text), 40)], "-")
	name := strings.TrimRight(text, "-")
	for n := 2; taken(name); n++ {
		name = fmt.Sprintf("%s-%d", text, n)
	}
	return name
}
