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
	// scanEvery is the interval of the fallback scan where inotify may not tell
	// everything: network file systems, links, no inotify instances left. Where it
	// does, the scan is for the rest (an overflown queue, a watch that was lost),
	// each scanSeldom.
	scanEvery  = time.Second
	scanSeldom = 30 * time.Second
	// scanShare is the share of one processor that scanning may take, as long as
	// that lets it scan each scanSeldom.
	scanShare = 100
)

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
	// direct are the directories of paths.
	real, direct map[string]bool
	// reported says that inotify tells everything, cost how long the last scan took.
	reported bool
	cost     time.Duration
	// writers are those of the configuration's files.
	writers writers
}

// NewWatcher takes the state that changes are measured against: a change
// after it returned is reported by Run. Without inotify (no instances left,
// for example) the Watcher goes on with scans, and logs so.
// Run must follow, for it releases what the Watcher holds.
func NewWatcher(paths []string, log *slog.Logger) *Watcher {
	w := &Watcher{paths: paths, log: log, warned: map[string]bool{}, direct: map[string]bool{}}
	for _, p := range paths {
		w.direct[filepath.Clean(p)], w.direct[filepath.Dir(filepath.Clean(p))] = true, true
	}
	var err error
	if w.notify, err = newNotifier(); err != nil {
		log.Warn("file notifications are not available; the policy's files are scanned instead, and changes count a little later", "error", err)
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
// during one are reported by one more. Files that were moved to their place, and
// links, are whole: their change is reported 2 ms after the last one. Files that
// are written in place are reported when none has changed for 1 s, and the
// writers have closed what they changed; when they never do, after 5 s at the
// first moment at which all are closed, and after 10 s in any case.
//
// What inotify does not tell (network file systems, files behind links) is found
// by a scan: each second, or as seldom as it takes for the scan to cost 1 % of a
// processor, but at least each 30 s.
func (w *Watcher) Run(ctx context.Context, changed func()) {
	defer w.close()
	var events <-chan notice
	if w.notify != nil {
		events = w.notify.events
	}
	scan := time.NewTimer(w.interval())
	defer scan.Stop()
	quiet := time.NewTimer(0)
	quiet.Stop()
	defer quiet.Stop()
	var p pending
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				events, w.reported = nil, false
				continue
			}
			if e.lost {
				w.log.Warn("file notifications were lost; the policy's files are scanned again")
				w.writers.forget()
				p.add(partial, time.Now())
				break
			}
			p.add(w.weigh(e), time.Now())
		case <-quiet.C:
			look = true
		case <-scan.C:
			if now := w.scan(); p.since.IsZero() && !maps.Equal(now, w.last) {
				p.add(partial, time.Now()) // for all that is known
				p.seen = now
			}
			scan.Reset(w.interval())
		}
		if look && w.look(&p) {
			changed()
		}
		if p.since.IsZero() {
			quiet.Stop()
		} else {
			quiet.Reset(time.Until(p.due(w.writers.any())))
		}
	}
}

// look scans when that is due, and says whether there is a change to report. What
// only scans see is seen to have settled by a second one.
func (w *Watcher) look(p *pending) bool {
	at := time.Now()
	if p.since.IsZero() || at.Before(p.due(w.writers.any())) {
		return false
	}
	now := w.scan()
	if p.seen != nil && !maps.Equal(now, p.seen) && at.Sub(p.since) < churnTime {
		p.seen, p.last = now, at
		return false
	}
	*p = pending{}
	// Taken before the call: what changes while it runs counts as new.
	if maps.Equal(now, w.last) {
		return false
	}
	w.last = now
	return true
}

// interval is the time until the next fallback scan.
func (w *Watcher) interval() time.Duration {
	if w.reported && w.notify != nil {
		return scanSeldom
	}
	return min(max(scanEvery, scanShare*w.cost), scanSeldom)
}

func (w *Watcher) weigh(e notice) weight {
	ours := e.name == "" || isConfig(filepath.Base(e.name)) || w.real[e.name]
	if ours && e.name != "" {
		w.writers.note(e)
	}
	switch {
	case e.dir != "" && !w.direct[e.dir] && (e.gone || e.name == ""):
		return aside // what a link led to before it was swapped
	case e.moved:
		return whole
	case ours:
		return partial
	}
	return aside
}

// scan takes the stamps of all files that paths lead to, and keeps the
// directories around them watched. A watch on a directory sees files replaced
// by rename, which a watch on the file itself would lose. While a file system
// does not answer nothing has changed.
func (w *Watcher) scan() map[string]stamp {
	start := time.Now()
	defer func() { w.cost = time.Since(start) }()
	s := seen{local: true, stamps: map[string]stamp{}, dirs: map[string]bool{}, real: map[string]bool{}}
	if !w.looking.run(readWait, func() { s.look(w.paths) }) {
		if !w.stuck {
			w.log.Error("files cannot be watched: a file system does not answer; what was read from them stays in force", "paths", w.paths)
		}
		w.stuck = true
		return w.last
	}
	w.stuck = false
	w.real = s.real
	watched := w.follow(s.dirs)
	w.reported = watched && s.local && !s.links
	return s.stamps
}

// seen is what a scan finds: see Watcher.
type seen struct {
	stamps     map[string]stamp
	dirs, real map[string]bool
	// links says that there are symbolic links on the way, local that all
	// directories are on file systems that inotify tells everything of.
	links, local bool
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
	for dir := range s.dirs {
		s.local = s.local && isLocal(dir)
	}
}

// localFiles are the file systems, by their numbers (statfs(2)), whose files
// change by this kernel alone and under the names that are watched.
var localFiles = map[int64]bool{
	0xef53:     true, // ext2, ext3, ext4
	0x58465342: true, // XFS
	0x9123683e: true, // btrfs
	0x01021994: true, // tmpfs
	0x858458f6: true, // ramfs
	0xf2f52010: true, // F2FS
	0x2fc12fc1: true, // ZFS
	0xca451a4e: true, // bcachefs
}

func isLocal(dir string) bool {
	var st syscall.Statfs_t
	return syscall.Statfs(dir, &st) == nil && localFiles[int64(uint32(st.Type))]
}

// target adds the directory that a link leads to.
func (s *seen) target(name string) {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		s.links = true // it may lead anywhere
	} else if real != name {
		s.links = true
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

// follow makes the set of watched directories equal to dirs, and says whether
// all are.
func (w *Watcher) follow(dirs map[string]bool) bool {
	if w.notify == nil {
		return false
	}
	failed := w.notify.watch(dirs)
	for name, err := range failed {
		// One that is not there has nothing to watch, and is looked for.
		if !w.warned[name] && !errors.Is(err, fs.ErrNotExist) {
			w.log.Warn("a directory cannot be watched; it is scanned instead, and changes there count a little later", "path", name, "error", err)
			w.warned[name] = true // said once
		}
	}
	return len(failed) == 0
}
