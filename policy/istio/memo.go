// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"reflect"
	"slices"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// memo has what objects were translated to, as long as what it depends on is
// the same: then it is the same in the next Config, and nobody compiles it
// again.
type memo struct {
	// before is of the loader before; nil where it is no good any more.
	before, now map[*object]translation
}

// translation is what an object was translated to.
type translation struct {
	value any
	// parts are the other objects that went into it.
	parts    []*object
	findings []Finding
	origins  []origin
}

// origin is where a destination is written.
type origin struct {
	destination *policy.WeightedDestination
	at          strictyaml.Passage
}

// remember takes over what the loader before translated, if translations of
// that depend on nothing which has changed: which hosts have no dot, and the
// defaults of exportTo.
func (l *loader) remember(was *loader) {
	l.memo = memo{now: map[*object]translation{}}
	if was == nil || !maps.Equal(l.shortHosts, was.shortHosts) {
		return
	}
	for i := range l.exports {
		if !l.exports[i].equal(was.exports[i]) {
			return
		}
	}
	l.memo.before = was.memo.now
}

// once translates an object, which with its parts has all that is needed,
// unless that has been done before.
func once[T any](l *loader, o *object, parts []*object, translate func() T) T {
	if t, ok := l.memo.before[o]; ok && slices.Equal(t.parts, parts) {
		l.r.AddAll(t.findings)
		for _, w := range t.origins {
			l.origins[w.destination] = w.at
		}
		l.memo.now[o] = t
		v, _ := t.value.(T) // nil is none
		return v
	}
	findings := len(l.r.Findings)
	l.leans, l.written = false, nil
	v := translate()
	if !l.leans {
		l.memo.now[o] = translation{v, parts, slices.Clone(l.r.Findings[findings:]), l.written}
	}
	return v
}

// write notes where a destination is written.
func (l *loader) write(w *policy.WeightedDestination, at strictyaml.Passage) {
	l.origins[w] = at
	l.written = append(l.written, origin{w, at})
}

// keep replaces those of a list that are as they were by what they were.
func keep[T any, K comparable](list, before []*T, key func(*T) K) {
	was := make(map[K]*T, len(before))
	for _, x := range before {
		was[key(x)] = x
	}
	for i, x := range list {
		if old := was[key(x)]; old != nil && reflect.DeepEqual(old, x) {
			list[i] = old
		}
	}
}

func serviceRef(s *policy.Service) policy.Ref { return s.Ref }
