// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/podcgroup"
)

// seekInterval is how long pods' cgroups in another place than the known one may stay unseen.
const seekInterval = 10 * time.Second

// podFinder finds the cgroup that all pods of the node are in. The lock of the Capture
// guards it.
type podFinder struct {
	tree   string // the root of the cgroup tree
	follow bool   // the kernel tells names
	sought time.Time
	// watch are directories in which it may come.
	watch []string
	// elsewhere says that there are pods in another place as well; nil: there are none.
	elsewhere error
}

func (f *podFinder) missing() error {
	return fmt.Errorf("no kubelet has made the cgroup of its pods (kubepods, kubepods.slice) below %s yet", f.tree)
}

// findPods makes the pods what is captured; noFollow is why the kernel tells no names.
func (c *Capture) findPods(noFollow error) error {
	tree, err := cgroup.Root()
	if err != nil {
		return err
	}
	c.pods = &podFinder{tree: tree, follow: noFollow == nil}
	c.seek()
	return nil
}

// seek looks whether the pods are where they were, and finds out where they are.
func (c *Capture) seek() {
	if c.pods == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.pods
	known := false
	for _, dir := range c.where.named {
		_, err := cgroup.ID(dir)
		known = err == nil
	}
	if known && time.Since(f.sought) < seekInterval {
		return
	}
	roots, watch := podcgroup.Find(f.tree)
	f.sought, f.watch = time.Now(), nil
	if len(roots) == 0 {
		f.watch = watch
		return // the place of before stays, for pods come back there
	}
	current := ""
	if len(c.where.named) > 0 {
		current = c.where.named[0]
	}
	root, others := f.choose(roots, current)
	f.elsewhere = nil
	if len(others) > 0 {
		f.elsewhere = fmt.Errorf("pods are in %s and in %s, and those in %[1]s are not captured: end them, as when a node is drained before its kubelet gets another cgroup driver",
			strings.Join(others, ", "), root)
	}
	if root != current {
		c.where, c.attached = f.at(root), 0
	}
}

// at is where what is in the root is captured.
func (f *podFinder) at(root string) place {
	p := place{named: []string{root}, at: root}
	if top, err := outermost(p.named); err == nil && f.follow {
		p.at, p.byName = top, true
	}
	return p
}

// choose says which of the roots, the nearest first, is the node's: of the nearest, for those
// further down are of nodes that run on this one, the current one or else the first that has
// pods. It also returns others that have some.
func (f *podFinder) choose(roots []podcgroup.Root, current string) (root string, others []string) {
	depth := func(r podcgroup.Root) int { return strings.Count(string(r), "/") }
	first := filepath.Join(f.tree, string(roots[0]))
	var populated []string
	for _, r := range roots {
		if depth(r) != depth(roots[0]) {
			break
		}
		dir := filepath.Join(f.tree, string(r))
		if len(r.Pods(f.tree)) > 0 {
			populated = append(populated, dir)
		}
		if dir == current {
			first = current
		}
	}
	for _, dir := range populated {
		switch {
		case root == "" || dir == current:
			root = dir
		}
	}
	if root == "" {
		return first, nil
	}
	for _, dir := range populated {
		if dir != root {
			others = append(others, dir)
		}
	}
	return root, others
}

// root is the cgroup of all pods; "": it is not known.
func (c *Capture) podRoot() podcgroup.Root {
	if c.pods == nil {
		return ""
	}
	for _, dir := range c.Named() {
		if rel, err := filepath.Rel(c.pods.tree, dir); err == nil {
			return podcgroup.Root(rel)
		}
	}
	return ""
}

func (c *Capture) setUnknown(uids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknown = uids
}

// awaited are the directories to be watched for the pods' cgroup.
func (c *Capture) awaited() []string {
	if c.pods == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods.watch
}
