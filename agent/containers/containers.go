// SPDX-License-Identifier: Apache-2.0

// Package containers knows what the container runtimes say of the containers that are
// there: asked in the background, again until there is an answer, and kept while a runtime
// is away.
package containers

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/internal/containerapi"
)

const (
	// askTime bounds one question to one runtime.
	askTime = 2 * time.Second
	// A container of which nothing is known is asked for again after retryFirst, and
	// then after twice as long each time, up to retryMost.
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
	// refresh is how long an answer counts before it is asked for again: a container
	// may be renamed.
	refresh = time.Minute
	// maxAsked bounds how many questions there are at a time, to one runtime.
	maxAsked = 4
)

// API describes containers of a runtime; it is a containerapi.Inspector.
type API interface {
	Describe(ctx context.Context, id string) (container.Description, error)
}

// Lister is an API that lists namespaces of which each has a cgroup with its containers; it
// is a containerapi.Inspector.
type Lister interface {
	Namespaces(ctx context.Context) ([]string, error)
}

// Directory is what is known of containers. Make one with New.
type Directory struct {
	apis  map[container.Runtime]API
	slots map[container.Runtime]chan struct{}
	log   *slog.Logger
	wake  chan struct{}
	fresh atomic.Bool // something else is known, and nobody was told

	mu    sync.Mutex
	known map[string]*entry // by id
	away  map[container.Runtime]string
	// namespaces are containerd's.
	namespaces namespaces
}

// entry is what is known of a container.
type entry struct {
	container.Instance
	is    *container.Description // nil: nothing
	err   error                  // why nothing is known
	due   time.Time
	wait  time.Duration
	asked bool // and there is no answer yet
}

// New makes a Directory that asks the runtimes of apis.
func New(apis map[container.Runtime]API, log *slog.Logger) *Directory {
	d := &Directory{apis: apis, log: log, wake: make(chan struct{}, 1), known: map[string]*entry{},
		slots: map[container.Runtime]chan struct{}{}, away: map[container.Runtime]string{}}
	d.namespaces.lister, _ = apis[container.Containerd].(Lister)
	d.namespaces.wait = retryFirst
	for r := range apis {
		d.slots[r] = make(chan struct{}, maxAsked)
	}
	return d
}

// Want says which containers there are, and which cgroups may be namespaces. What is known
// of other containers is forgotten.
func (d *Directory) Want(there container.Found) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := map[string]bool{}
	fresh := d.namespaces.want(there.Unexplained)
	for _, c := range there.Containers {
		ids[c.ID] = true
		if d.known[c.ID] == nil {
			d.known[c.ID] = &entry{Instance: c, err: errNotAsked, wait: retryFirst}
			fresh = true
		}
	}
	for id := range d.known {
		if !ids[id] {
			delete(d.known, id)
		}
	}
	if fresh {
		select {
		case d.wake <- struct{}{}:
		default: // it will look
		}
	}
}

var (
	errNotAsked  = errors.New("its runtime has not answered yet")
	errNoRuntime = errors.New("no runtime is asked for it (--container-runtimes)")
)

// Describe tells what is known of a container, or why nothing is.
func (d *Directory) Describe(id string) (container.Description, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.known[id]
	switch {
	case e == nil:
		return container.Description{}, errNotAsked
	case e.is == nil:
		return container.Description{}, e.err
	}
	return *e.is, nil
}

// Prime asks for what is not known, and returns when there is an answer for each, or
// after two seconds.
func (d *Directory) Prime() {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	var all sync.WaitGroup
	due, _ := d.due(time.Now())
	for _, ask := range due {
		all.Go(func() { ask(ctx) })
	}
	all.Wait()
}

// Run asks for containers until ctx ends, and calls changed after something else is known.
func (d *Directory) Run(ctx context.Context, changed func()) {
	var asking sync.WaitGroup
	defer asking.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-timer.C:
		}
		if d.fresh.Swap(false) { // several answers are one change
			changed()
		}
		due, next := d.due(time.Now())
		for _, ask := range due {
			asking.Go(func() {
				if ask(ctx) {
					d.fresh.Store(true)
				}
				select {
				case d.wake <- struct{}{}: // it is due again, later
				default:
				}
			})
		}
		timer.Reset(next)
	}
}

// due are the questions to ask now, which say whether something else is known then, and how
// long nothing else is to be asked.
func (d *Directory) due(now time.Time) (due []func(context.Context) bool, next time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next = refresh
	if n := &d.namespaces; n.lister != nil && !n.asked {
		if wait := n.due.Sub(now); wait > 0 {
			next = min(next, wait)
		} else {
			n.asked = true
			due = append(due, d.list)
		}
	}
	for _, e := range d.known {
		switch wait := e.due.Sub(now); {
		case e.asked:
		case wait <= 0:
			e.asked = true
			due = append(due, func(ctx context.Context) bool { return d.ask(ctx, e) })
		default:
			next = min(next, wait)
		}
	}
	return due, next
}

// ask asks for a container, and says whether something else is known then.
func (d *Directory) ask(ctx context.Context, e *entry) (changed bool) {
	is, err := d.askAll(ctx, e.Instance)
	d.mu.Lock()
	defer d.mu.Unlock()
	e.asked = false
	if err != nil {
		e.due, e.wait = time.Now().Add(e.wait), min(2*e.wait, retryMost)
		if e.is == nil {
			e.err = err
		}
		return false // what was known stays
	}
	e.due, e.wait = time.Now().Add(refresh), retryFirst
	changed = e.is == nil || !same(*e.is, is)
	e.is = &is
	return changed && d.known[e.ID] == e
}

// askAll asks the runtime that a container is of, or each where its cgroup does not tell.
func (d *Directory) askAll(ctx context.Context, c container.Instance) (container.Description, error) {
	var failed error
	unknown := errNoRuntime
	for _, r := range container.Runtimes {
		api := d.apis[r]
		if api == nil || c.Runtime != "" && c.Runtime != r {
			continue
		}
		is, err := d.askOne(ctx, r, api, c.ID)
		switch {
		case err == nil:
			return is, nil
		case errors.Is(err, containerapi.ErrUnknown):
			unknown = err
		default:
			failed = errors.Join(failed, err)
		}
	}
	if failed == nil {
		failed = unknown
	}
	return container.Description{}, failed
}

func (d *Directory) askOne(ctx context.Context, r container.Runtime, api API, id string) (container.Description, error) {
	select {
	case d.slots[r] <- struct{}{}:
		defer func() { <-d.slots[r] }()
	case <-ctx.Done():
		return container.Description{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	is, err := api.Describe(ctx, id)
	if !errors.Is(ctx.Err(), context.Canceled) {
		d.note(r, err)
	}
	return is, err
}

// note logs when a runtime stops answering, and when it answers again.
func (d *Directory) note(r container.Runtime, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := ""
	if err != nil && !errors.Is(err, containerapi.ErrUnknown) {
		text = err.Error()
	}
	was := d.away[r]
	d.away[r] = text
	switch {
	case text != "" && was == "":
		d.log.Warn("a container runtime does not answer: known containers keep their policy, new ones may reach nothing until it does", "runtime", string(r), "error", err)
	case text == "" && was != "":
		d.log.Info("the container runtime answers again", "runtime", string(r))
	}
}

func same(a, b container.Description) bool {
	return a.Runtime == b.Runtime && a.Name == b.Name && a.Image == b.Image && maps.Equal(a.Labels, b.Labels)
}
