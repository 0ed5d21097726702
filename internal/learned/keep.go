// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"cmp"
	"slices"
	"time"

	"github.com/egressd/egressd/policy"
)

// ExactName is what is known of a name that is to be kept.
type ExactName struct {
	Policies []policy.PolicyID
	// Until is when its time is over, under the policy where that is first.
	Until time.Time
	asked time.Time // the latest
}

// ExactNames lists the learned names that policies name exactly, at most so
// many of all policies and of one: those asked for last.
func (n *Names) ExactNames(most, mostOfPolicy int) map[string]ExactName {
	out := map[string]ExactName{}
	tables := n.all()
	each := min(mostOfPolicy, most/max(1, len(tables)))
	for id, t := range tables {
		found := t.exactNames(n.policies.Policy(id))
		names := make([]string, 0, len(found))
		for name := range found {
			names = append(names, name)
		}
		if len(names) > each {
			slices.SortFunc(names, func(a, b string) int {
				return cmp.Or(found[b].asked.Compare(found[a].asked), cmp.Compare(a, b))
			})
			names = names[:each]
		}
		for _, name := range names {
			e := out[name]
			e.Policies = append(e.Policies, id)
			if e.Until.IsZero() || found[name].Until.Before(e.Until) {
				e.Until = found[name].Until // the first to need it
			}
			out[name] = e
		}
	}
	return out
}

// exactNames are those of one table.
func (t *table) exactNames(p *policy.Policy) map[string]ExactName {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := map[string]ExactName{}
	for name, addrs := range t.names {
		var e ExactName
		for addr := range addrs {
			pair := t.addrs[addr].pairs[name]
			if pair.wild {
				break // so are the others
			}
			if pair.until.After(e.Until) {
				e.Until = pair.until
			}
			if pair.asked.After(e.asked) {
				e.asked = pair.asked
			}
		}
		if e.Until.IsZero() {
			continue
		}
		if h := lookup(p, name); h != nil && !h.Own && !h.Pattern.IsWildcard() {
			out[name] = e
		}
	}
	return out
}

// Keep lets those of the answers that were learned for the name count on.
func (n *Names) Keep(id policy.PolicyID, name string, answers []Record) {
	t := n.peek(id)
	if t == nil {
		return
	}
	now := n.o.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range answers {
		if _, ok := t.names[name][a.Addr]; ok {
			t.prolong(t.addrs[a.Addr].pairs[name], now.Add(min(max(a.TTL, n.o.Floor), n.o.Cap)))
		}
	}
}

// KeepUntil lets all addresses of the name count until then.
func (n *Names) KeepUntil(id policy.PolicyID, name string, until time.Time) {
	t := n.peek(id)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for addr := range t.names[name] {
		t.prolong(t.addrs[addr].pairs[name], until)
	}
}

// prolong lets p count until then at least.
func (t *table) prolong(p *pair, until time.Time) {
	if until.After(p.until) {
		p.until = until
		t.changes++
	}
}
