// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNone is returned when no cgroup v2 hierarchy is mounted.
var ErrNone = errors.New("no cgroup2 mount in /proc/self/mountinfo")

// Root finds where cgroup v2 is mounted: /sys/fs/cgroup on most
// machines, /sys/fs/cgroup/unified on hybrid ones. Of several mounts, as in a container
// that has its own and its node's, it is the one that shows most of the tree. It returns
// ErrNone if it is nowhere.
func Root() (string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for _, m := range mounts(string(info)) {
		if isCgroup2(m.point) { // no other file system was mounted over it
			return m.point, nil
		}
	}
	return "", ErrNone
}

// mount is a mount of cgroup v2.
type mount struct {
	// root is the cgroup that it shows, as seen from the cgroup namespace of the reader: /..
	// is the one above the namespace's own root.
	root, point string
}

// mounts lists those in a mountinfo file, the outermost first.
func mounts(mountinfo string) []mount {
	var all []mount
	for line := range strings.Lines(mountinfo) {
		// proc(5): "36 35 98:0 ROOT MOUNTPOINT opts... - FSTYPE source opts"
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		// What is mounted later hides what is there.
		all = slices.DeleteFunc(all, func(m mount) bool { return m.point == point })
		if strings.HasPrefix(after, "cgroup2 ") {
			all = append(all, mount{unescape(fields[3]), point})
		}
	}
	slices.SortStableFunc(all, func(x, y mount) int { return x.depth() - y.depth() })
	return all
}

// depth is how far below the root of the reader's namespace the mount's is; negative: above.
func (m mount) depth() (n int) {
	for name := range strings.SplitSeq(m.root, "/") {
		switch name {
		case "":
		case "..":
			n--
		default:
			n++
		}
	}
	return n
}

// unescape undoes what mountinfo does to spaces and the like: \040.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Own returns the directory of the calling process's cgroup v2, below Root.
func Own() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		// cgroups(7): the v2 entry is "0::PATH"; PATH begins at the root of the process's
		// cgroup namespace, and with /.. when it lies outside.
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return own(root, path)
		}
	}
	return "", fmt.Errorf("%w: no entry in /proc/self/cgroup", ErrNone)
}

// own finds the cgroup of this process, which its namespace calls path, below root. They
// part where the namespace has another root than the mount, as in a container that has the
// tree of its node: there only the list of processes tells.
func own(root, path string) (string, error) {
	pid := strconv.Itoa(os.Getpid())
	if dir := filepath.Join(root, path); !strings.HasPrefix(path, "/..") && has(dir, pid) {
		return dir, nil
	}
	found := ""
	err := Walk(root, nil, func(dir string, _ []uint64) {
		if found == "" && has(dir, pid) {
			found = dir
		}
	})
	if err == nil && found == "" {
		err = fmt.Errorf("no cgroup below %s has this process; in a container mount the node's cgroup tree (hostPath /sys/fs/cgroup)", root)
	}
	return found, err
}

// has says whether a process is in the cgroup at dir.
func has(dir, pid string) bool {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		// Of a threaded one only the threads can be listed, which begin with the process.
		procs, err = os.ReadFile(filepath.Join(dir, "cgroup.threads"))
	}
	return err == nil && slices.ContainsFunc(bytes.Fields(procs), func(p []byte) bool { return string(p) == pid })
}
