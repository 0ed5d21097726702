// SPDX-License-Identifier: Apache-2.0

// Package memcg reads how much memory the cgroups around the calling process
// let it have, of cgroup v2 and of v1 (cgroups(7), Documentation/admin-guide/
// cgroup-v2.rst and cgroup-v1/memory.rst).
package memcg

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Limit is the memory limit of one cgroup. A cgroup without one has no Limit.
type Limit struct {
	Dir string // of the cgroup
	// Max and Used are bytes. What is used has no part in it that the kernel
	// gives back when it must, as the cache of files.
	Max, Used uint64
}

// Left is how many bytes are not used.
func (l Limit) Left() uint64 { return l.Max - min(l.Max, l.Used) }

// Limits are those of the calling process's cgroup and of the cgroups around it
// that show here, the innermost first.
func Limits() ([]Limit, error) { return limits("/proc/self") }

// Least returns the limit with the smallest Max, and Tightest that with the
// smallest Left; false: there is none.
func Least(all []Limit) (Limit, bool) {
	return smallest(all, func(l Limit) uint64 { return l.Max })
}

// Tightest is said at Least.
func Tightest(all []Limit) (Limit, bool) { return smallest(all, Limit.Left) }

func smallest(all []Limit, of func(Limit) uint64) (out Limit, ok bool) {
	for _, l := range all {
		if !ok || of(l) < of(out) {
			out, ok = l, true
		}
	}
	return out, ok
}

// files are where a version of cgroups has the numbers.
type files struct {
	max, used string
	given     []string // lines of memory.stat: what is given back
}

var (
	v2 = files{"memory.max", "memory.current", []string{"inactive_file", "active_file", "slab_reclaimable"}}
	v1 = files{"memory.limit_in_bytes", "memory.usage_in_bytes", []string{"total_inactive_file", "total_active_file"}}
)

// unlimited is where v1 has no limit: the most pages that it can count.
const unlimited = math.MaxInt64 / 4096 * 4096

func limits(proc string) ([]Limit, error) {
	paths, err := pathsOf(filepath.Join(proc, "cgroup"))
	if err != nil {
		return nil, err
	}
	mounts, err := mountsOf(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return nil, err
	}
	var all []Limit
	for _, m := range mounts {
		path, ok := paths[m.v2]
		if !ok {
			continue
		}
		f := v1
		if m.v2 {
			f = v2
		}
		// A mount shows the hierarchy below its root.
		rel, err := filepath.Rel(m.root, path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			rel = "."
		}
		for dir := filepath.Join(m.dir, rel); ; dir = filepath.Dir(dir) {
			l, ok, err := f.read(dir)
			if err != nil {
				return nil, err
			}
			if ok {
				all = append(all, l)
			}
			if dir == m.dir || len(dir) <= len(m.dir) {
				break
			}
		}
	}
	return all, nil
}

// pathsOf are the process's cgroups that may have the memory controller: of v2
// (true) and of v1.
func pathsOf(file string) (map[bool]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[bool]string{}
	for line := range strings.Lines(string(data)) {
		// "ID:CONTROLLERS:PATH"; v2 has no controllers here.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		if fields[1] == "" {
			out[true] = fields[2]
		} else if hasWord(fields[1], "memory") {
			out[false] = fields[2]
		}
	}
	return out, nil
}

type mount struct {
	v2        bool
	root, dir string
}

// mountsOf are the mounts of cgroup hierarchies that may have the memory
// controller, one of each version.
func mountsOf(file string) ([]mount, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []mount
	seen := map[bool]bool{}
	for s := bufio.NewScanner(f); s.Scan(); {
		// proc(5): "36 35 98:0 ROOT DIR OPTIONS [TAGS...] - TYPE SOURCE SUPER"
		before, after, ok := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		m := mount{v2: right[0] == "cgroup2", root: left[3], dir: left[4]}
		if !m.v2 && (right[0] != "cgroup" || !hasWord(right[2], "memory")) || seen[m.v2] {
			continue
		}
		seen[m.v2] = true
		out = append(out, m)
	}
	return out, nil
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// read reads the limit of a cgroup; false: it has none, or no such controller.
func (f files) read(dir string) (Limit, bool, error) {
	limit, ok, err := number(filepath.Join(dir, f.max))
	if err != nil || !ok || limit >= unlimited {
		return Limit{}, false, err
	}
	used, ok, err := number(filepath.Join(dir, f.used))
	if err != nil || !ok {
		return Limit{}, false, err
	}
	given, err := f.givenBack(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return Limit{}, false, err
	}
	return Limit{Dir: dir, Max: limit, Used: used - min(used, given)}, true, nil
}

// number reads a file with one number; false: it is not there, or says "max".
func number(file string) (uint64, bool, error) {
	data, err := os.ReadFile(file)
	text := strings.TrimSpace(string(data))
	if errors.Is(err, fs.ErrNotExist) || err == nil && text == "max" {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("read %s: %w", file, err)
	}
	return n, true, nil
}

// givenBack is the sum of the lines of memory.stat that f names.
func (f files) givenBack(file string) (sum uint64, err error) {
	in, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	for {
		var name string
		var n uint64
		switch _, err := fmt.Fscanln(in, &name, &n); {
		case errors.Is(err, io.EOF):
			return sum, nil
		case err != nil:
			return 0, fmt.Errorf("read %s: %w", file, err)
		}
		for _, want := range f.given {
			if name == want {
				sum += n
			}
		}
	}
}

// MiB writes a number of bytes.
func MiB(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
