// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// PathPattern names cgroups by their paths below a root, without a leading slash:
// "system.slice/foo.service". In a segment '*' stands for any characters, '?'
// for one. "**" as the last segment stands for what is below; since a cgroup
// stands for everything below it anyway, "a/**" names what "a" does.
type PathPattern string

// segments returns the parts of the path without a last "**".
func (p PathPattern) segments() []string {
	s := strings.Split(strings.Trim(string(p), "/"), "/")
	if s[len(s)-1] == "**" {
		s = s[:len(s)-1]
	}
	return s
}

// Compare orders patterns most specific first: more segments before fewer,
// then those with fewer wildcards, then longer, then alphabetically.
func (p PathPattern) Compare(o PathPattern) int {
	return cmp.Or(p.rank().compare(o.rank()), cmp.Compare(p, o))
}

// rank is what patterns are ordered by.
type rank struct{ segments, wild, length int }

func (p PathPattern) rank() rank {
	return rank{len(p.segments()), strings.Count(string(p), "*") + strings.Count(string(p), "?"), len(p)}
}

func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(o.segments, r.segments), cmp.Compare(r.wild, o.wild), cmp.Compare(o.length, r.length))
}

// listing reads each directory of a tree once.
type listing map[string]map[string]bool

// children are the names of the cgroups in dir; one that is gone has none.
func (l listing) children(dir string) (map[string]bool, error) {
	if names, ok := l[dir]; ok {
		return names, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return nil, err
	}
	names := make(map[string]bool, len(entries))
	for _, e := range entries {
		if e.IsDir() {
			names[e.Name()] = true
		}
	}
	l[dir] = names
	return names, nil
}

// Find returns the directories below root that the pattern names, and the
// directories that have to be watched to learn of new ones. Cgroups that go
// away meanwhile are left out.
func (p PathPattern) Find(root string) (found, watch []string, err error) {
	return p.find(root, listing{})
}

func (p PathPattern) find(root string, tree listing) (found, watch []string, err error) {
	at := []string{root}
	for _, segment := range p.segments() {
		watch = append(watch, at...)
		var next []string
		for _, dir := range at {
			names, err := tree.children(dir)
			if err != nil {
				return nil, nil, err
			}
			if !isWild(segment) {
				if names[segment] {
					next = append(next, dir+"/"+segment)
				}
				continue
			}
			for _, name := range slices.Sorted(maps.Keys(names)) {
				if ok, err := filepath.Match(segment, name); err != nil {
					return nil, nil, err
				} else if ok {
					next = append(next, dir+"/"+name)
				}
			}
		}
		at = next
	}
	return at, watch, nil
}

// Names says whether the pattern names the cgroup of a path below the root, be it
// there or not.
func (p PathPattern) Names(path string) bool {
	segments, names := p.segments(), strings.Split(path, "/")
	if len(segments) != len(names) {
		return false
	}
	for i, segment := range segments {
		if !isWild(segment) {
			if segment != names[i] {
				return false
			}
			continue
		}
		if ok, err := filepath.Match(segment, names[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// isWild says whether a segment stands for several names. In one that does not, a
// backslash is one: systemd writes it in names.
func isWild(segment string) bool { return strings.ContainsAny(segment, "*?[") }

// Literal is the pattern that names the cgroup of one path below a root.
func Literal(path string) PathPattern {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if isWild(segment) {
			segments[i] = wild.Replace(segment)
		}
	}
	return PathPattern(strings.Join(segments, "/"))
}

var wild = strings.NewReplacer("*", `\*`, "?", `\?`, "[", `\[`, `\`, `\\`)

// Assign finds the cgroups of several patterns. The result has the directories
// with the indices of the patterns that name them, the most specific first, to
// which the cgroup goes; and the directories to be watched for new ones. It also has
// those of expected that are named, be they there or not. Each directory is read once,
// however many patterns lead through it.
func Assign(root string, patterns []PathPattern, expected []string) (dirs map[string][]int, watch []string, err error) {
	root = filepath.Clean(root)
	order, ranks := make([]int, len(patterns)), make([]rank, len(patterns))
	for i, p := range patterns {
		order[i], ranks[i] = i, p.rank()
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(ranks[a].compare(ranks[b]), cmp.Compare(patterns[a], patterns[b]))
	})
	dirs = map[string][]int{}
	tree, around := listing{}, map[string]bool{}
	for _, i := range order {
		found, from, err := patterns[i].find(root, tree)
		if err != nil {
			return nil, nil, err
		}
		for _, dir := range expected {
			rel, err := filepath.Rel(root, dir)
			if err == nil && patterns[i].Names(rel) && !slices.Contains(found, dir) {
				found = append(found, dir)
			}
		}
		for _, dir := range found {
			dirs[dir] = append(dirs[dir], i)
		}
		for _, dir := range from {
			around[dir] = true
		}
	}
	return dirs, slices.Sorted(maps.Keys(around)), nil
}
