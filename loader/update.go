// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"

	"github.com/egressd/egressd/policy"
)

// Update brings the static openings from what Apply or Update left to what
// the changes say, in two calls: first Tighten, then Loosen. It costs what has
// changed. After an error the tables are brought right by Apply.
func (d *Datapath) Update(changes map[policy.PolicyID][]policy.StaticChange, phase Phase) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.collectSets(); err != nil {
		return err
	}
	if phase == Tighten { // before anything is changed
		if err := d.reserveChanges(changes); err != nil {
			return err
		}
	}
	for id, list := range changes {
		for _, c := range list {
			var err error
			if phase == Tighten {
				err = d.tightenOne(id, c)
			} else {
				err = d.loosenOne(id, c)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// reserveChanges makes room for the addresses that changes open.
func (d *Datapath) reserveChanges(changes map[policy.PolicyID][]policy.StaticChange) error {
	t := &d.tables
	addrs, fresh := len(t.haveAdr), map[knownKey]bool{}
	for id, list := range changes {
		for _, c := range list {
			if !c.Prefix.IsSingleIP() {
				continue
			}
			k := keyOf(id, policy.Opening{Prefix: c.Prefix, Transport: c.Transport, Port: c.Port})
			_, have := t.haveAdr[k]
			open := len(c.Openings) > 0 || t.learned[k].Verdict != policy.Deny
			switch {
			case have && !open:
				addrs--
			case !have && open:
				addrs++
				fresh[knownOf(k)] = len(t.known[knownOf(k)]) == 0
			}
		}
	}
	known := len(t.known)
	for _, is := range fresh {
		if is {
			known++
		}
	}
	// What goes is not taken off, but there are never more than addresses.
	return d.grown.reserve(addrs, min(known, addrs), d.grown.names.n)
}

// changed is a StaticChange in the form of the tables.
func changed(id policy.PolicyID, c policy.StaticChange) (way policy.Way, names map[proof]bool) {
	names = map[proof]bool{}
	for _, o := range c.Openings {
		way = way.Join(wayOf(o), c.Transport)
		if o.Verdict == policy.Inspect && o.Name != "" {
			names[proof{htons(o.Port), o.Name}] = true
		}
	}
	return way, names
}

func (d *Datapath) tightenOne(id policy.PolicyID, c policy.StaticChange) error {
	o := policy.Opening{Prefix: c.Prefix, Transport: c.Transport, Port: c.Port}
	way, names := changed(id, c)
	if !c.Prefix.IsSingleIP() {
		return d.tightenNet(cidrOf(id, o), way)
	}
	k := keyOf(id, o)
	known := knownOf(k)
	if err := d.tightenAddr(k, way, names); err != nil {
		return err
	}
	return d.dropProofs(known, d.tables.wanted[known], d.tables.namesWith(known, k.Port, names))
}

func (d *Datapath) loosenOne(id policy.PolicyID, c policy.StaticChange) error {
	t := &d.tables
	o := policy.Opening{Prefix: c.Prefix, Transport: c.Transport, Port: c.Port}
	way, names := changed(id, c)
	if !c.Prefix.IsSingleIP() {
		if k := cidrOf(id, o); way.Verdict != policy.Deny && t.haveNet[k] != way {
			return d.putNet(k, way)
		}
		return nil
	}
	k := keyOf(id, o)
	known := knownOf(k)
	if way.Verdict == policy.Deny {
		delete(t.static, k)
	} else {
		t.static[k] = way
	}
	if all := t.namesWith(known, k.Port, names); len(all) > 0 {
		t.named[known] = all
	} else {
		delete(t.named, known)
	}
	if err := d.addProofs(known, names); err != nil {
		return err
	}
	if want := join(way, t.learned[k], k); want.Verdict != policy.Deny && t.haveAdr[k] != want {
		return d.putAddr(k, want)
	}
	return nil
}

// namesWith returns the names that the static openings of an address prove,
// with those of one port (network order) replaced.
func (t *tables) namesWith(known knownKey, port uint16, names map[proof]bool) map[proof]bool {
	all := maps.Clone(t.named[known])
	maps.DeleteFunc(all, func(p proof, _ bool) bool { return p.port == port })
	if all == nil {
		return names
	}
	maps.Copy(all, names)
	return all
}
