// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/internal/containerapi"
)

// namespaces are those of containerd. The lock of the Directory guards them.
type namespaces struct {
	lister      Lister // nil: containerd is not asked
	known       []string
	unexplained []string // cgroups that may be namespaces
	due         time.Time
	wait        time.Duration
	asked       bool // and there is no answer yet
}

// want says which cgroups may be namespaces, and whether that is to be asked now.
func (n *namespaces) want(unexplained []string) (fresh bool) {
	fresh = n.lister != nil && slices.ContainsFunc(unexplained, func(name string) bool { return !slices.Contains(n.unexplained, name) })
	n.unexplained = unexplained
	if fresh {
		n.due, n.wait = time.Time{}, retryFirst
	}
	return fresh
}

// Namespaces are those that containerd has said last.
func (d *Directory) Namespaces() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.namespaces.known
}

// list asks containerd for its namespaces, and says whether there are others then. Those that
// were known stay while it does not answer.
func (d *Directory) list(ctx context.Context) (changed bool) {
	asking, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	known, err := d.namespaces.lister.Namespaces(asking)
	if !errors.Is(asking.Err(), context.Canceled) && !errors.Is(err, fs.ErrNotExist) {
		d.note(container.Containerd, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &d.namespaces
	n.asked = false
	switch {
	case err == nil:
		slices.Sort(known)
		changed = !slices.Equal(known, n.known)
		n.known, n.due, n.wait = known, time.Now().Add(refresh), retryFirst
	case len(n.unexplained) == 0:
		n.due = time.Now().Add(refresh) // nothing depends on it
	default:
		n.due, n.wait = time.Now().Add(n.wait), min(2*n.wait, retryMost)
	}
	return changed
}

var _ Lister = (*containerapi.Inspector)(nil)
