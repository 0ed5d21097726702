// SPDX-License-Identifier: Apache-2.0

package load

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source"
)

// Refused is an object of an API server that has an error and is left out, alone.
type Refused struct {
	// Object is the object, as KIND NAMESPACE/NAME; File is its file's name.
	Object string `json:"object"`
	File   string `json:"file"`
	// Message says what is wrong with it.
	Message string `json:"message"`
	// Since is when it was refused first, Older that the last version of it that
	// was good is in force.
	Since time.Time `json:"since"`
	Older bool      `json:"older"`
}

const (
	// refuseRounds bounds how often a policy is read again without the objects that
	// have errors: leaving one out can be an error of another one.
	refuseRounds = 8
	// searchTries bounds how often it is compiled to find out which objects cause an
	// error that names none.
	searchTries = 64
)

// Refusals loads a policy of files, which are good or bad as a whole, and of objects
// of an API server, which are good or bad each by itself: of one with an error the
// last version counts that was good, or none. The zero value knows no versions.
type Refusals struct {
	good    []istio.File // the objects that were loaded, sorted by name
	refused map[string]Refused
}

// Restore takes objects for versions that were good.
func (r *Refusals) Restore(objects []istio.File) {
	r.good = slices.SortedFunc(slices.Values(objects), byName)
}

func byName(a, b istio.File) int { return cmp.Compare(a.Name, b.Name) }

// find is the file of a name in a sorted list.
func find(files []istio.File, name string) (istio.File, bool) {
	i, ok := slices.BinarySearchFunc(files, istio.File{Name: name}, byName)
	if !ok {
		return istio.File{}, false
	}
	return files[i], true
}

// Load loads files and objects, which are sorted by name, by try. Errors of the files
// are the policy's, unless the files were good before: then objects are to blame.
func (r *Refusals) Load(files, objects []istio.File, filesGood bool, try func([]istio.File) (Result, error)) (Result, error) {
	a := attempt{files: files, try: try, left: map[string]istio.Finding{}}
	now := objects
	var l Result
	var err error
	for range refuseRounds {
		if l, err = a.load(now); err == nil {
			r.accept(&l, objects, now, a.left)
			return l, nil
		}
		if !errors.Is(err, ErrPolicy) {
			return l, err
		}
		bad, outside := blame(l.Findings)
		if outside && !filesGood {
			return l, err
		}
		if outside || len(bad) == 0 {
			break
		}
		now = r.without(now, bad, a.left)
	}
	found, now, ferr := r.search(&a, objects)
	if ferr != nil {
		return l, err
	}
	r.accept(&found, objects, now, a.left)
	return found, nil
}

// attempt is a policy that is being loaded. left are the objects that are left out, by
// their files, and why.
type attempt struct {
	files []istio.File
	try   func([]istio.File) (Result, error)
	left  map[string]istio.Finding
	tries int
}

func (a *attempt) load(objects []istio.File) (Result, error) {
	a.tries++
	return a.try(slices.Concat(a.files, objects))
}

// blame finds the objects that have errors. outside says that something else has one.
func blame(findings []istio.Finding) (bad map[string]istio.Finding, outside bool) {
	bad = map[string]istio.Finding{}
	for _, f := range findings {
		if f.Severity != istio.Error {
			continue
		}
		if !source.IsObject(f.File) {
			outside = true
		} else if _, ok := bad[f.File]; !ok {
			bad[f.File] = f
		}
	}
	return bad, outside
}

// without puts the last good versions in the place of objects that are bad, or nothing
// if there is none, or it is what is bad.
func (r *Refusals) without(now []istio.File, bad, left map[string]istio.Finding) []istio.File {
	out := make([]istio.File, 0, len(now))
	for _, f := range now {
		why, isBad := bad[f.Name]
		if !isBad {
			out = append(out, f)
			continue
		}
		_, again := left[f.Name]
		if !again {
			left[f.Name] = why
		}
		if old, ok := find(r.good, f.Name); ok && !again && !same(old, f) {
			out = append(out, old)
		}
	}
	return out
}

// same says whether two versions of an object are one. Those that did not change are
// mostly the same memory.
func same(a, b istio.File) bool {
	return len(a.Data) == len(b.Data) && (len(a.Data) == 0 || &a.Data[0] == &b.Data[0] || string(a.Data) == string(b.Data))
}

// search finds the objects that cause an error which names none of them: what was
// good before and is still there is loaded, and then as much as possible of what has
// changed, in halves.
func (r *Refusals) search(a *attempt, objects []istio.File) (l Result, now []istio.File, err error) {
	var changed []istio.File
	for _, f := range objects {
		old, ok := find(r.good, f.Name)
		if ok {
			now = append(now, old)
		}
		if !ok || !same(old, f) {
			changed = append(changed, f)
		}
	}
	clear(a.left)
	a.tries = 0
	if l, err = a.load(now); err != nil {
		return l, nil, err // a deletion causes it, or the files do
	}
	var add func([]istio.File)
	add = func(more []istio.File) {
		if len(more) == 0 {
			return
		}
		why := errors.New("it was not tried, because too many objects have errors at once")
		if a.tries < searchTries {
			with := merge(now, more)
			found, ferr := a.load(with)
			if ferr == nil {
				l, now = found, with
				return
			}
			why = ferr
			if bad, _ := blame(found.Findings); len(bad) > 0 && len(more) == 1 {
				for _, f := range bad {
					why = errors.New(f.Text)
				}
			}
		}
		if len(more) == 1 || a.tries >= searchTries {
			for _, f := range more {
				a.left[f.Name] = istio.Finding{Severity: istio.Error, File: f.Name, Object: source.ObjectOf(f.Name), Text: why.Error()}
			}
			return
		}
		add(more[:len(more)/2])
		add(more[len(more)/2:])
	}
	add(changed)
	// What was tried last may have been refused: the reader must end with what counts.
	l, err = a.load(now)
	return l, now, err
}

// merge puts versions into a sorted list of objects.
func merge(now, more []istio.File) []istio.File {
	out := make([]istio.File, 0, len(now)+len(more))
	for _, f := range more {
		i, ok := slices.BinarySearchFunc(now, f, byName)
		out = append(append(out, now[:i]...), f)
		if now = now[i:]; ok {
			now = now[1:]
		}
	}
	return append(out, now...)
}

// accept notes what was loaded, and tells the result what was not.
func (r *Refusals) accept(l *Result, objects, now []istio.File, left map[string]istio.Finding) {
	r.good = now
	refused := make(map[string]Refused, len(left))
	for name, why := range left {
		if _, ok := find(objects, name); !ok {
			continue
		}
		_, older := find(now, name)
		x := Refused{Object: cmp.Or(why.Object, source.ObjectOf(name)), File: name, Message: why.Text, Since: time.Now(), Older: older}
		if was, ok := r.refused[name]; ok {
			x.Since = was.Since
		}
		refused[name] = x
		l.Refused = append(l.Refused, x)
		l.Findings = append(l.Findings, why)
	}
	r.refused = refused
	slices.SortFunc(l.Refused, func(a, b Refused) int { return cmp.Compare(a.File, b.File) })
}
