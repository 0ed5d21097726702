// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// debounce is how long nothing must happen before a change is reported:
	// editors and ConfigMap updates take several steps.
	debounce = 100 * time.Millisecond
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
	notify *fsnotify.Watcher // nil without inotify
	warned map[string]bool   // directories that cannot be watched
	last   map[string]stamp
}

// NewWatcher takes the state that changes are measured against: a change
// after it returned is reported by Run. Without inotify (no instances left,
// for example) the Watcher goes on with a scan each second, and logs so.
// Run must follow, for it releases what the Watcher holds.
func NewWatcher(paths []string, log *slog.Logger) *Watcher {
	w := &Watcher{paths: paths, log: log, warned: map[string]bool{}}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("no file notifications, scanning once a second", "error", err)
		w.notify = nil
	}
	w.last = w.scan()
	return w
}

func (w *Watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close() // only descriptors: nothing can be lost
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
// second, and mostly after 100 ms without a further one.
func (w *Watcher) Run(ctx context.Context, changed func()) {
	defer w.close()
	var events <-chan fsnotify.Event
	var errs <-chan error
	if w.notify != nil {
		events, errs = w.notify.Events, w.notify.Errors
	}
	ticker := time.NewTicker(scanEvery)
	defer ticker.Stop()
	quiet := time.NewTimer(debounce)
	quiet.Stop()
	defer quiet.Stop()
	var since time.Time // of the first event that was not looked at; zero: none
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) < patience {
				quiet.Reset(debounce)
				continue
			}
			look = true
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			w.log.Warn("file notifications failed, scanning", "error", err)
			look = true
		case <-quiet.C:
			look = true
		case <-ticker.C:
			look = since.IsZero()
		}
		if !look {
			continue
		}
		since = time.Time{}
		quiet.Stop()
		// Taken before the call: what changes while it runs counts as new.
		if now := w.scan(); !maps.Equal(now, w.last) {
			w.last = now
			changed()
		}
	}
}

// scan takes the stamps of all files that paths lead to, and keeps the
// directories around them watched. A watch on a directory sees files replaced
// by rename, which a watch on the file itself would lose.
func (w *Watcher) scan() map[string]stamp {
	stamps := map[string]stamp{}
	dirs := map[string]bool{}
	for _, p := range w.paths {
		dirs[filepath.Dir(p)] = true
		record(stamps, p)
		info, err := os.Stat(p)
		if err != nil {
			continue
		}
		if !info.IsDir() {
			w.target(p, dirs)
			continue
		}
		dirs[p] = true
		w.target(p, dirs)
		entries, err := os.ReadDir(p)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !isConfig(e.Name()) {
				continue
			}
			name := filepath.Join(p, e.Name())
			record(stamps, name)
			w.target(name, dirs)
		}
	}
	w.follow(dirs)
	return stamps
}

// target adds the directory that a link leads to.
func (w *Watcher) target(name string, dirs map[string]bool) {
	if real, err := filepath.EvalSymlinks(name); err == nil && real != filepath.Clean(name) {
		dirs[filepath.Dir(real)] = true
	}
}

// record stamps the file that name leads to, and the link on the way: a link
// swapped to another file with equal times and sizes is a change, too.
func record(stamps map[string]stamp, name string) {
	if info, err := os.Stat(name); err == nil {
		stamps[name] = stampOf(info)
	} else {
		stamps[name] = stamp{size: -1}
	}
	if info, err := os.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		stamps[name+"\x00link"] = stampOf(info)
	}
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

// follow makes the set of watched directories equal to dirs. Watches are on
// inodes: a directory that was removed has lost its own, so fsnotify's list
// is asked and not ours alone.
func (w *Watcher) follow(dirs map[string]bool) {
	if w.notify == nil {
		return
	}
	live := map[string]bool{}
	for _, name := range w.notify.WatchList() {
		live[name] = true
	}
	for name := range live {
		if !dirs[name] {
			_ = w.notify.Remove(name) // gone already: nothing to remove
		}
	}
	for name := range dirs {
		if live[name] {
			continue
		}
		if err := w.notify.Add(name); err != nil && !w.warned[name] {
			w.log.Warn("directory cannot be watched, scanning once a second", "path", name, "error", err)
			w.warned[name] = true // said once
		}
	}
}
