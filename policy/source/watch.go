// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// debounce is how long nothing must happen before a change is reported:
	// files that are written in place are incomplete for a while.
	debounce = 100 * time.Millisecond
	// replaced is debounce for files that were moved to their place: they are
	// complete, and all that can follow is another one.
	replaced = 2 * time.Millisecond
	// patience bounds the debouncing, so that a file that is written all the
	// time cannot put off an update for ever.
	patience = 500 * time.Millisecond
	// scanEvery is the interval of the fallback scan. It sees what inotify
	// does not tell: network file systems, a watch lost with a replaced
	// directory, an overflown queue, no inotify instances left.
	scanEvery = time.Second
)

// Watch calls changed each time the files that paths lead to have changed
// since Watch was called, until ctx ends; then it returns. To miss nothing
// between reading the files and watching them, use NewWatcher, Files, Run.
func Watch(ctx context.Context, paths []string, log *slog.Logger, changed func()) {
	NewWatcher(paths, log).Run(ctx, changed)
}

// Watcher tells when configuration files change. It is made by NewWatcher and
// used for one Run.
type Watcher struct {
	paths  []string
	log    *slog.Logger
	notify *notifier       // nil without inotify
	warned map[string]bool // directories that cannot be watched
	last   map[string]stamp
	// looking is a scan that has not ended in time.
	looking deadline
	stuck   bool
	// real are the files and directories that links among paths lead to.
	real map[string]bool
}

// NewWatcher takes the state that changes are measured against: a change
// after it returned is reported by Run. Without inotify (no instances left,
// for example) the Watcher goes on with a scan each second, and logs so.
// Run must follow, for it releases what the Watcher holds.
func NewWatcher(paths []string, log *slog.Logger) *Watcher {
	w := &Watcher{paths: paths, log: log, warned: map[string]bool{}}
	var err error
	if w.notify, err = newNotifier(); err != nil {
		log.Warn("no file notifications, scanning once a second", "error", err)
		w.notify = nil
	}
	w.last = w.scan()
	return w
}

func (w *Watcher) close() {
	if w.notify != nil {
		_ = w.notify.close() // only descriptors: nothing can be lost
	}
}

// stamp tells versions of a file apart without reading it.
type stamp struct {
	size, mtime, ctime int64
	dev, inode         uint64
	mode               fs.FileMode
}

// Run calls changed each time the files have changed, until ctx ends. Calls
// come one at a time from the caller's goroutine, and changes that happen
// during one are reported by one more. A change is reported within about a
// second: mostly after 2 ms without a further one when files were moved to
// their place, and after 100 ms when they were written there.
func (w *Watcher) Run(ctx context.Context, changed func()) {
	defer w.close()
	var events <-chan notice
	if w.notify != nil {
		events = w.notify.events
	}
	ticker := time.NewTicker(scanEvery)
	defer ticker.Stop()
	quiet := time.NewTimer(debounce)
	quiet.Stop()
	defer quiet.Stop()
	var p pending
	note := func(e weight) (look bool) {
		wait := p.add(e, time.Now())
		if wait > 0 {
			quiet.Reset(wait)
		}
		return wait == 0
	}
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if e.lost {
				w.log.Warn("file notifications were lost, scanning")
			}
			look = e.lost || note(w.weigh(e))
		case <-quiet.C:
			look = true
		case <-ticker.C:
			if p.since.IsZero() && !maps.Equal(w.scan(), w.last) {
				look = note(partial) // for all that is known
			}
		}
		if !look {
			continue
		}
		p = pending{}
		quiet.Stop()
		// Taken before the call: what changes while it runs counts as new.
		if now := w.scan(); !maps.Equal(now, w.last) {
			w.last = now
			changed()
		}
	}
}

// weight says what an event means for the time to look.
type weight int

const (
	// aside: something beside the configuration, such as the file that will
	// be moved to its place. It is looked at, for links may lead through it.
	aside weight = iota
	// whole: a file or a link is in its place.
	whole
	// partial: a file of the configuration is being changed.
	partial
)

func (w *Watcher) weigh(e notice) weight {
	switch {
	case e.moved:
		return whole
	case e.name == "" || isConfig(filepath.Base(e.name)) || w.real[e.name]:
		return partial
	}
	return aside
}

// pending are events that were not looked at yet.
type pending struct {
	since time.Time // of the first; zero: none
	worst weight
}

// add notes an event. It returns how long nothing must follow: 0 is to look
// now, for others may go on and on, and less is what was said before.
func (p *pending) add(e weight, now time.Time) time.Duration {
	first := p.since.IsZero()
	if first {
		p.since = now
	}
	p.worst = max(p.worst, e)
	switch {
	case now.Sub(p.since) >= patience:
		return 0
	case e == aside && !first: // it puts nothing off
		return -1
	case p.worst == whole:
		return replaced
	}
	return debounce
}

// scan takes the stamps of all files that paths lead to, and keeps the
// directories around them watched. A watch on a directory sees files replaced
// by rename, which a watch on the file itself would lose. While a file system
// does not answer nothing has changed.
func (w *Watcher) scan() map[string]stamp {
	s := seen{stamps: map[string]stamp{}, dirs: map[string]bool{}, real: map[string]bool{}}
	if !w.looking.run(readWait, func() { s.look(w.paths) }) {
		if !w.stuck {
			w.log.Error("files cannot be watched: a file system does not answer; what was read from them stays in force", "paths", w.paths)
		}
		w.stuck = true
		return w.last
	}
	w.stuck = false
	w.real = s.real
	w.follow(s.dirs)
	return s.stamps
}

// seen is what a scan finds: see Watcher.
type seen struct {
	stamps     map[string]stamp
	dirs, real map[string]bool
}

func (s *seen) look(paths []string) {
	for _, p := range paths {
		p = filepath.Clean(p)
		s.real[p] = true
		s.dirs[filepath.Dir(p)] = true
		record(s.stamps, p)
		s.target(p)
		info, err := os.Stat(p)
		if err != nil || !info.IsDir() {
			continue
		}
		s.dirs[p] = true
		entries, err := os.ReadDir(p)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !isConfig(e.Name()) {
				continue
			}
			name := filepath.Join(p, e.Name())
			if record(s.stamps, name) {
				s.target(name)
			}
		}
	}
}

// target adds the directory that a link leads to.
func (s *seen) target(name string) {
	if real, err := filepath.EvalSymlinks(name); err == nil && real != name {
		s.real[real] = true
		s.dirs[filepath.Dir(real)] = true
	}
}

// record stamps the file that name leads to, and the link on the way: a link
// swapped to another file with equal times and sizes is a change, too. It
// says whether there is a link.
func record(stamps map[string]stamp, name string) (link bool) {
	info, err := os.Lstat(name)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		stamps[name+"\x00link"] = stampOf(info)
		link = true
		info, err = os.Stat(name)
	}
	stamps[name] = stamp{size: -1}
	if err == nil {
		stamps[name] = stampOf(info)
	}
	return link
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mtime: info.ModTime().UnixNano(), mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.ctime = st.Ctim.Nano()
		s.dev, s.inode = uint64(st.Dev), st.Ino
	}
	if info.IsDir() {
		// Any file in a directory changes these; only what is read counts.
		s.size, s.mtime, s.ctime = 0, 0, 0
	}
	return s
}

// follow makes the set of watched directories equal to dirs.
func (w *Watcher) follow(dirs map[string]bool) {
	if w.notify == nil {
		return
	}
	for name, err := range w.notify.watch(dirs) {
		// One that is not there has nothing to watch, and is looked for.
		if !w.warned[name] && !errors.Is(err, fs.ErrNotExist) {
			w.log.Warn("directory cannot be watched, scanning once a second", "path", name, "error", err)
			w.warned[name] = true // said once
		}
	}
}
