// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

// rescan is how often a Watcher looks although nothing was reported: inotify
// drops events when its queue is full, and there may be none at all.
const rescan = 2 * time.Second

// Watcher tells when cgroups come and go in a set of directories.
type Watcher struct {
	log    *slog.Logger
	notify *fsnotify.Watcher // nil: there is no inotify, only rescans
}

// NewWatcher starts to watch nothing. Run must follow, for it releases what
// the Watcher holds.
func NewWatcher(log *slog.Logger) *Watcher {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("no notifications of new cgroups, looking every two seconds", "error", err)
		n = nil
	}
	return &Watcher{log: log, notify: n}
}

// Follow makes dirs the directories that are watched. Those that are gone are
// no error. It says whether there are new ones: look at these for cgroups
// again, for what came before nobody reports.
func (w *Watcher) Follow(dirs []string) (more bool) {
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
// until ctx ends or again closes. Calls come one at a time.
func (w *Watcher) Run(ctx context.Context, changed func()) {
	var events <-chan fsnotify.Event
	var errs <-chan error
	if w.notify != nil {
		defer func() { _ = w.notify.Close() }() // only descriptors
		events, errs = w.notify.Events, w.notify.Errors
	}
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if e.Has(fsnotify.Create) || e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				drain(events)
				changed()
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			w.log.Warn("notifications of new cgroups failed", "error", err)
			changed()
		case <-tick.C:
			changed()
		}
	}
}

// drain takes the events that are there already: one look serves them all.
func drain(events <-chan fsnotify.Event) {
	for {
		select {
		case _, ok := <-events:
			if !ok {
				return
			}
		default:
			return
		}
	}
}
