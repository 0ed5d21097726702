// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// notifier tells what happens in directories (inotify(7)). Other than the
// portable libraries it tells a file that was moved to its place, which is
// complete, from one that is being written there, and when its writer closed it.
type notifier struct {
	f      *os.File
	events chan notice
	done   chan struct{} // closed by close

	mu    sync.Mutex
	paths map[string]int32 // the watches by directory
	names map[int32]string // one of the directories of a watch
}

// notice is one thing that happened to a file of a directory, or, when it has
// no name, to a directory itself or to the notifier.
type notice struct {
	name string
	dir  string // "": not known
	// moved says that a file was moved to the name, written that its content
	// changed, closed that a writer closed it, and gone that it left the name.
	moved, written, closed, gone bool
	// lost says that there were more events than the kernel keeps.
	lost bool
}

// watched is what is told of a directory.
const watched = syscall.IN_CREATE | syscall.IN_MODIFY | syscall.IN_CLOSE_WRITE | syscall.IN_ATTRIB | syscall.IN_DELETE |
	syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO | syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF

func newNotifier() (*notifier, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	n := &notifier{
		f:      os.NewFile(uintptr(fd), "inotify"),
		events: make(chan notice), done: make(chan struct{}),
		paths: map[string]int32{}, names: map[int32]string{},
	}
	go n.read()
	return n, nil
}

// close ends the notifier. events is closed soon after.
func (n *notifier) close() error {
	close(n.done)
	return n.f.Close()
}

// watch makes the set of watched directories equal to dirs, and returns what
// cannot be watched.
func (n *notifier) watch(dirs map[string]bool) map[string]error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for dir, wd := range n.paths {
		if dirs[dir] {
			continue
		}
		delete(n.paths, dir)
		if n.rename(wd) == "" {
			_, _ = syscall.InotifyRmWatch(n.fd(), uint32(wd)) // gone already: nothing to remove
		}
	}
	failed := map[string]error{}
	for dir := range dirs {
		// Again each time: the watch of a directory that was replaced is on
		// the old one. For the same one this changes nothing.
		wd, err := syscall.InotifyAddWatch(n.fd(), dir, watched|syscall.IN_ONLYDIR)
		if err != nil {
			failed[dir] = os.NewSyscallError("inotify_add_watch", err)
			delete(n.paths, dir)
			continue
		}
		n.paths[dir], n.names[int32(wd)] = int32(wd), dir
	}
	return failed
}

// rename gives a watch the name of another directory that it is for, and
// returns that; "" when there is none.
func (n *notifier) rename(wd int32) string {
	delete(n.names, wd)
	for dir, other := range n.paths {
		if other == wd {
			n.names[wd] = dir
			return dir
		}
	}
	return ""
}

// fd is used while n.f is open: close comes after the last use.
func (n *notifier) fd() int {
	var fd int
	conn, err := n.f.SyscallConn()
	if err != nil || conn.Control(func(p uintptr) { fd = int(p) }) != nil {
		return -1
	}
	return fd
}

// read sends the events until the notifier is closed.
func (n *notifier) read() {
	defer close(n.events)
	buf := make([]byte, 64<<10)
	for {
		size, err := n.f.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				n.send(notice{lost: true})
			}
			return
		}
		for b := buf[:size]; len(b) >= syscall.SizeofInotifyEvent; {
			// struct inotify_event in inotify(7): watch, mask, cookie, length
			// of the name, and the name with zeros behind it.
			wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
			end := min(syscall.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:])), len(b))
			name := string(bytes.TrimRight(b[syscall.SizeofInotifyEvent:end], "\x00"))
			if !n.send(n.notice(wd, mask, name)) {
				return
			}
			b = b[end:]
		}
	}
}

func (n *notifier) notice(wd int32, mask uint32, name string) notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	dir := n.names[wd]
	if mask&syscall.IN_IGNORED != 0 { // the directory is gone, and its watch
		delete(n.names, wd)
	}
	out := notice{
		dir: dir, moved: mask&syscall.IN_MOVED_TO != 0, written: mask&syscall.IN_MODIFY != 0,
		closed: mask&syscall.IN_CLOSE_WRITE != 0, gone: mask&(syscall.IN_DELETE|syscall.IN_MOVED_FROM) != 0,
		lost: mask&syscall.IN_Q_OVERFLOW != 0,
	}
	if dir != "" && name != "" {
		out.name = filepath.Join(dir, name)
	}
	return out
}

func (n *notifier) send(e notice) bool {
	select {
	case n.events <- e:
		return true
	case <-n.done:
		return false
	}
}
