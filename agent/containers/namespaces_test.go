// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/egressd/egressd/internal/container"
)

// lister is a containerd with namespaces.
type lister struct {
	runtime
	mu     sync.Mutex
	has    []string
	err    error
	listed int
}

func (l *lister) Namespaces(context.Context) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listed++
	return slices.Clone(l.has), l.err
}

func (l *lister) set(err error, has ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.has, l.err = has, err
}

func (l *lister) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listed
}

// TestNamespaces: containerd is asked when a cgroup comes that may be a namespace, again while
// it does not answer, and seldom while nothing depends on it. What is known stays.
func TestNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{err: fs.ErrNotExist}
		said := &logged{}
		d := New(map[container.Runtime]API{container.Containerd: l}, slog.New(slog.NewTextHandler(said, nil)))
		d.Prime()
		changed := begin(t, d)
		time.Sleep(refresh / 2)
		if n := l.asked(); n != 1 || said.count("does not answer") != 0 {
			t.Errorf("without containerd it is asked %d times: %s", n, said.b.String())
		}
		d.Want(container.Found{Unexplained: []string{"shop"}})
		time.Sleep(refresh / 2)
		if n := l.asked(); n < 8 || n > 16 {
			t.Errorf("with what may be a namespace it is asked %d times", n)
		}
		l.set(nil, "shop", "default")
		<-changed
		if got := d.Namespaces(); !slices.Equal(got, []string{"default", "shop"}) {
			t.Errorf("namespaces %q", got)
		}
		d.Want(container.Found{})
		l.set(errors.New("away"))
		time.Sleep(2 * refresh)
		if got := d.Namespaces(); len(got) != 2 || said.count("does not answer") != 1 {
			t.Errorf("away: %q\n%s", got, said.b.String())
		}
		l.set(nil, "default", "other")
		d.Want(container.Found{Unexplained: []string{"other"}})
		<-changed
		if got := d.Namespaces(); !slices.Contains(got, "other") || said.count("answers again") != 1 {
			t.Errorf("back: %q\n%s", got, said.b.String())
		}
	})
}

// TestNoNamespaces: Docker alone has none, and nobody is asked.
func TestNoNamespaces(t *testing.T) {
	d := New(map[container.Runtime]API{container.Docker: &runtime{}}, slog.New(slog.DiscardHandler))
	d.Want(container.Found{Unexplained: []string{"shop"}})
	d.Prime()
	if got := d.Namespaces(); got != nil {
		t.Errorf("namespaces %q", got)
	}
}
