// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	wild := func(p PathPattern) int { return strings.Count(string(p), "*") + strings.Count(string(p), "?") }
	return cmp.Or(cmp.Compare(len(o.segments()), len(p.segments())), cmp.Compare(wild(p), wild(o)),
		cmp.Compare(len(o), len(p)), cmp.Compare(p, o))
}

// Find returns the directories below root that the pattern names, and the
// directories that have to be watched to learn of new ones. Cgroups that go
// away meanwhile are left out.
func (p PathPattern) Find(root string) (found, watch []string, err error) {
	at := []string{root}
	for _, segment := range p.segments() {
		watch = append(watch, at...)
		var next []string
		for _, dir := range at {
			if !strings.ContainsAny(segment, "*?[") {
				if info, err := os.Stat(filepath.Join(dir, segment)); err == nil && info.IsDir() {
					next = append(next, filepath.Join(dir, segment))
				}
				continue
			}
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, nil, err
			}
			for _, e := range entries {
				if ok, err := filepath.Match(segment, e.Name()); err != nil {
					return nil, nil, err
				} else if ok && e.IsDir() {
					next = append(next, filepath.Join(dir, e.Name()))
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
		if ok, err := filepath.Match(segment, names[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// Assign finds the cgroups of several patterns. The result has the directories
// with the indices of the patterns that name them, the most specific first, to
// which the cgroup goes; and the directories to be watched for new ones. It also has
// those of expected that are named, be they there or not.
func Assign(root string, patterns []PathPattern, expected []string) (dirs map[string][]int, watch []string, err error) {
	order := make([]int, len(patterns))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return patterns[a].Compare(patterns[b]) })
	dirs = map[string][]int{}
	for _, i := range order {
		found, around, err := patterns[i].Find(root)
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
		watch = append(watch, around...)
	}
	slices.Sort(watch)
	return dirs, slices.Compact(watch), nil
}
