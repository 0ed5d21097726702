// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// WatchTick is how long a connection is left alone before it is watched: the price
// of a watch is paid by those that wait, not by each request.
const WatchTick = 25 * time.Millisecond

// Watched is a connection that may have to be watched.
type Watched interface {
	// Tick is called each watchTick. False: it is watched, or need not be, and is
	// to be made active again when something moves.
	Tick() bool
}

// EndWatcher tells of the end of connections that nobody reads: of clients whose
// request is under way, and of upstreams between two requests. One goroutine and one
// descriptor serve all.
type EndWatcher struct {
	epoll *os.File
	raw   syscall.RawConn
	done  chan struct{}

	mu     sync.Mutex
	active []Watched
	timer  *time.Timer
	closed bool
	last   uint64
	calls  map[uint64]func(events uint32)
}

// NewEndWatcher returns a watcher, which has the error of one that watches nothing.
func NewEndWatcher() (*EndWatcher, error) {
	w := &EndWatcher{done: make(chan struct{}), calls: map[uint64]func(uint32){}, closed: true}
	close(w.done)
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return w, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // os.NewFile has it polled
		unix.Close(fd)
		return w, err
	}
	w.epoll = os.NewFile(uintptr(fd), "epoll")
	if w.raw, err = w.epoll.SyscallConn(); err != nil {
		return w, err
	}
	w.closed, w.done = false, make(chan struct{})
	go w.run()
	return w, nil
}

// Watches says whether anything is watched: its end has not come, and there was a
// descriptor for it.
func (w *EndWatcher) Watches() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.closed
}

// Close ends all watches.
func (w *EndWatcher) Close() {
	w.mu.Lock()
	w.closed, w.active = true, nil
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	if w.epoll != nil {
		w.epoll.Close()
	}
	<-w.done
}

func (w *EndWatcher) run() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := w.raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		})
		if err != nil {
			return // it is closed
		}
		for _, e := range events[:n] {
			id := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			w.mu.Lock()
			call := w.calls[id]
			w.mu.Unlock()
			if call != nil {
				call(e.Events)
			}
		}
	}
}

// Add has call be called once, when one of the events, or an error, is there on the
// connection; more says that there was a watch on it before. The number is for
// remove; 0: it could not be done.
func (w *EndWatcher) Add(raw syscall.RawConn, events uint32, call func(events uint32), again bool) uint64 {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return 0
	}
	w.last++
	id := w.last
	w.calls[id] = call
	w.mu.Unlock()
	e := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	op := unix.EPOLL_CTL_ADD
	if again {
		op = unix.EPOLL_CTL_MOD
	}
	if err := w.ctl(raw, op, &e); err != nil {
		w.Forget(id)
		return 0
	}
	return id
}

// Forget has the call of a watch not be called any more; one may be under way.
func (w *EndWatcher) Forget(id uint64) {
	w.mu.Lock()
	delete(w.calls, id)
	w.mu.Unlock()
}

// Remove ends a watch. Its call may be under way still.
func (w *EndWatcher) Remove(raw syscall.RawConn, id uint64) {
	if id != 0 {
		w.Forget(id)
		_ = w.ctl(raw, unix.EPOLL_CTL_DEL, nil) // a closed connection is none of its own
	}
}

func (w *EndWatcher) ctl(raw syscall.RawConn, op int, e *unix.EpollEvent) (err error) {
	cerr := w.raw.Control(func(epfd uintptr) {
		err = raw.Control(func(fd uintptr) { err = unix.EpollCtl(int(epfd), op, int(fd), e) })
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// Activate has t be asked each watchTick, until it says no.
func (w *EndWatcher) Activate(t Watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.active = append(w.active, t)
	if len(w.active) == 1 {
		w.schedule()
	}
}

func (w *EndWatcher) schedule() {
	if w.timer == nil {
		w.timer = time.AfterFunc(WatchTick, w.ticks)
	} else {
		w.timer.Reset(WatchTick)
	}
}

func (w *EndWatcher) ticks() {
	w.mu.Lock()
	list := w.active
	w.active = nil
	w.mu.Unlock()
	n := 0
	for _, t := range list {
		if t.Tick() {
			list[n] = t
			n++
		}
	}
	clear(list[n:])
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	// What came meanwhile has begun to wait already.
	came := len(w.active) > 0
	if w.active = append(list[:n], w.active...); len(w.active) > 0 && !came {
		w.schedule()
	}
}
