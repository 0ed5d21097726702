// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchTick is how long a connection is left alone before it is watched: the price
// of a watch is paid by those that wait, not by each request.
const watchTick = 25 * time.Millisecond

// watched is a connection that may have to be watched.
type watched interface {
	// tick is called each watchTick. False: it is watched, or need not be, and is
	// to be made active again when something moves.
	tick() bool
}

// watcher tells of the end of connections that nobody reads: of clients whose
// request is under way, and of upstreams between two requests. One goroutine and one
// descriptor serve all.
type watcher struct {
	epoll *os.File
	raw   syscall.RawConn
	done  chan struct{}

	mu     sync.Mutex
	active []watched
	timer  *time.Timer
	closed bool
	last   uint64
	calls  map[uint64]func(events uint32)
}

// newWatcher returns a watcher, which has the error of one that watches nothing.
func newWatcher() (*watcher, error) {
	w := &watcher{done: make(chan struct{}), calls: map[uint64]func(uint32){}, closed: true}
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

func (w *watcher) close() {
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

func (w *watcher) run() {
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

// add has call be called once, when one of the events, or an error, is there on the
// connection; more says that there was a watch on it before. The number is for
// remove; 0: it could not be done.
func (w *watcher) add(raw syscall.RawConn, events uint32, call func(events uint32), again bool) uint64 {
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
		w.forget(id)
		return 0
	}
	return id
}

func (w *watcher) forget(id uint64) {
	w.mu.Lock()
	delete(w.calls, id)
	w.mu.Unlock()
}

// remove ends a watch. Its call may be under way still.
func (w *watcher) remove(raw syscall.RawConn, id uint64) {
	if id != 0 {
		w.forget(id)
		_ = w.ctl(raw, unix.EPOLL_CTL_DEL, nil) // a closed connection is none of its own
	}
}

func (w *watcher) ctl(raw syscall.RawConn, op int, e *unix.EpollEvent) (err error) {
	cerr := w.raw.Control(func(epfd uintptr) {
		err = raw.Control(func(fd uintptr) { err = unix.EpollCtl(int(epfd), op, int(fd), e) })
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// activate has t be asked each watchTick, until it says no.
func (w *watcher) activate(t watched) {
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

func (w *watcher) schedule() {
	if w.timer == nil {
		w.timer = time.AfterFunc(watchTick, w.ticks)
	} else {
		w.timer.Reset(watchTick)
	}
}

func (w *watcher) ticks() {
	w.mu.Lock()
	list := w.active
	w.active = nil
	w.mu.Unlock()
	n := 0
	for _, t := range list {
		if t.tick() {
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
