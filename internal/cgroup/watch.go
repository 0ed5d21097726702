// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

// rescan is how often a Watcher looks although nothing was reported: inotify
// drops events when its queue is full, and there may be none at all.
const rescan = 2 * time.Second

// rest is how many times as long as a look took there is none: where cgroups come
// and go all the time, looking takes a part of a core, and not all of it.
const rest = 4

// TreeWatcher tells when cgroups come and go in a set of directories.
type TreeWatcher struct {
	log    *slog.Logger
	notify *fsnotify.Watcher // nil: there is no inotify, only rescans
}

// NewWatcher starts to watch nothing. Run must follow, for it releases what
// the Watcher holds.
func NewWatcher(log *slog.Logger) *TreeWatcher {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("new cgroups cannot be watched; egressd looks for them every two seconds, and until then they use the policy around them", "error", err)
		n = nil
	}
	return &TreeWatcher{log: log, notify: n}
}

// Follow makes dirs the directories that are watched. Those that are gone are
// no error. It says whether there are new ones: look at these for cgroups
// again, for what came before nobody reports.
func (w *TreeWatcher) Follow(dirs []string) (more bool) {
	if w.notify == nil {
		return false
	}
	live := map[string]bool{}
	for _, dir := range w.notify.WatchList() {
		live[dir] = true
	}
	for _, dir := range dirs {
		if !live[dir] {
			more = true
			_ = w.notify.Add(dir) // gone already, or out of watches: the rescan finds it
		}
		delete(live, dir)
	}
	for dir := range live {
		_ = w.notify.Remove(dir) // gone already: nothing to remove
	}
	return more
}

// Run calls changed after cgroups have come or gone, and every two seconds,
// until ctx ends. Calls come one at a time, and after each is a pause, four times
// as long as it took and at most two seconds.
func (w *TreeWatcher) Run(ctx context.Context, changed func()) {
	var events <-chan fsnotify.Event
	var errs <-chan error
	if w.notify != nil {
		defer func() { _ = w.notify.Close() }() // only descriptors
		events, errs = w.notify.Events, w.notify.Errors
	}
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	resting, look := false, false
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			look = look || comesOrGoes(e)
			drain(events, &look)
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) { // which a look makes good
				w.log.Warn("the notification of new cgroups failed; egressd lists them now and every two seconds", "error", err)
			}
			look = true
		case <-tick.C:
			look = true
		case <-pause.C:
			resting = false
		}
		if look && !resting {
			began := time.Now()
			changed()
			pause.Reset(min(rest*time.Since(began), rescan))
			resting, look = true, false
		}
	}
}

// drain takes the events that are there already: one look serves them all.
func drain(events <-chan fsnotify.Event, look *bool) {
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			*look = *look || comesOrGoes(e)
		default:
			return
		}
	}
}

// comesOrGoes says whether an event is about a cgroup that came or went.
func comesOrGoes(e fsnotify.Event) bool {
	return e.Has(fsnotify.Create) || e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)
}
