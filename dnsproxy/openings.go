// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"cmp"
	"slices"

	"github.com/egressd/egressd/policy"
)

// merge returns the union of two sets of openings, sorted. Where the two want
// different verdicts for one port, see both.
func merge(a, b []policy.Opening) []policy.Opening {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, compareKey)
	out := all[:0]
	for _, o := range all {
		if last := len(out) - 1; last >= 0 && compareKey(out[last], o) == 0 {
			out[last].Verdict = both(out[last].Verdict, o.Verdict, o.Transport)
			continue
		}
		out = append(out, o)
	}
	return out
}

// both is the verdict for a port that two names on one address open in
// different ways. Two TCP names that disagree are told apart by the
// forwarding core, which knows every candidate: the stricter of direct and
// inspect would cut the opaque one off, the laxer would let the other's
// check be skipped.
func both(a, b policy.Verdict, t policy.Transport) policy.Verdict {
	switch {
	case a == b:
		return a
	case a == policy.Deny:
		return b
	case b == policy.Deny:
		return a
	case t == policy.TCP:
		return policy.Proxy
	}
	return stricter(a, b)
}

// stricter returns the verdict that lets less pass unseen: deny, then proxy,
// inspect and direct.
func stricter(a, b policy.Verdict) policy.Verdict {
	if a == policy.Deny || b == policy.Deny {
		return policy.Deny
	}
	return max(a, b)
}

// tighten returns those of have that want has too, each with the stricter
// verdict: nothing that is not open already, nothing that want does not open.
func tighten(have, want []policy.Opening) []policy.Opening {
	var out []policy.Opening
	for _, h := range have {
		if i, ok := slices.BinarySearchFunc(want, h, compareKey); ok {
			h.Verdict = stricter(h.Verdict, want[i].Verdict)
			out = append(out, h)
		}
	}
	return out
}

// compareKey orders openings by all but the verdict.
func compareKey(a, b policy.Opening) int {
	return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		cmp.Compare(a.Transport, b.Transport), cmp.Compare(a.Port, b.Port))
}
