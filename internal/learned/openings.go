// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"cmp"
	"slices"

	"github.com/egressd/egressd/policy"
)

// merge returns the union of two sets of openings, sorted and without
// duplicates. Where the two want different things for one port they are joined
// (policy.Way); names stay only where all want inspect.
func merge(a, b []policy.Opening) []policy.Opening {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, compareKey)
	out := all[:0]
	for start := 0; start < len(all); {
		way := all[start].Way()
		end := start + 1
		for ; end < len(all) && comparePort(all[start], all[end]) == 0; end++ {
			way = way.Join(all[end].Way(), all[end].Transport)
		}
		for i := start; i < end; i++ {
			o := all[i]
			o.Verdict, o.To = way.Verdict, way.To
			if way.Verdict != policy.Inspect {
				o.Name = ""
			}
			if last := len(out) - 1; last < 0 || out[last] != o {
				out = append(out, o)
			}
		}
		start = end
	}
	return out
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
// Where what has no entry is open (unknown), entries of want that close it are
// among them.
func tighten(have, want []policy.Opening, unknown bool) []policy.Opening {
	var out []policy.Opening
	for _, h := range have {
		for _, w := range want {
			if comparePort(h, w) != 0 {
				continue
			}
			switch {
			case h.Verdict == policy.Inspect && w.Verdict == policy.Inspect:
				if h.Name == w.Name {
					out = append(out, h)
				}
			case stricter(h.Verdict, w.Verdict) == h.Verdict:
				out = append(out, h)
			default:
				out = append(out, w)
			}
		}
	}
	for _, w := range want {
		closes := unknown && w.Verdict > policy.Direct
		if closes && !slices.ContainsFunc(have, func(h policy.Opening) bool { return comparePort(h, w) == 0 }) {
			out = append(out, w)
		}
	}
	return merge(out, nil)
}

// comparePort orders openings by address, transport and port.
func comparePort(a, b policy.Opening) int {
	return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		cmp.Compare(a.Transport, b.Transport), cmp.Compare(a.Port, b.Port))
}

// compareKey orders openings by all but the verdict.
func compareKey(a, b policy.Opening) int {
	return cmp.Or(comparePort(a, b), cmp.Compare(a.Name, b.Name))
}
