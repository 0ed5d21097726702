// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"reflect"
	"slices"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// translation is what an object was translated to.
type translation struct {
	// age is the loader's when it was made: what else it depends on was the same
	// since.
	age   int
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

// remember says whether what the loader before translated is good: if what
// translations depend on has not changed, which is which hosts have no dot, and
// the defaults of exportTo.
func (l *loader) remember(was *loader) {
	if was == nil {
		return
	}
	l.age = was.age
	same := maps.Equal(l.shortHosts, was.shortHosts)
	for i := range l.exports {
		same = same && l.exports[i].equal(was.exports[i])
	}
	if !same {
		l.age++
	}
}

// once translates an object, which with its parts has all that is needed,
// unless that has been done before: then it is the same in the next Config, and
// nobody compiles it again.
func once[T any](l *loader, o *object, parts []*object, translate func() T) T {
	if t := o.done; t != nil && t.age == l.age && slices.Equal(t.parts, parts) {
		l.r.AddAll(t.findings)
		for _, w := range t.origins {
			l.origins[w.destination] = w.at
		}
		v, _ := t.value.(T) // nil is none
		return v
	}
	findings := len(l.r.Findings)
	l.leans, l.written, o.done = false, nil, nil
	v := translate()
	if !l.leans {
		o.done = &translation{l.age, v, parts, slices.Clone(l.r.Findings[findings:]), l.written}
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
	if slices.Equal(list, before) {
		return
	}
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
