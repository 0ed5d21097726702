// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// What a pipe costs while bytes are in it, and how much goes through at once.
const (
	pipeDescriptors = 2
	pipeMemory      = 16 << 10
	pipeSize        = 1 << 20
	// idlePipes is how many are kept for the next bytes.
	idlePipes = 16
)

// pipePool has the pipes that splice(2) goes through. A connection has one only
// while bytes are on their way: io.Copy would hold one for each direction for as long as
// the connection is open, which costs an idle one four descriptors of six and most
// of its memory in the kernel.
type pipePool struct{ idle chan *pipePair }

type pipePair struct{ r, w int }

func newPipePool() *pipePool { return &pipePool{idle: make(chan *pipePair, idlePipes)} }

func (p *pipePool) get() (*pipePair, error) {
	select {
	case q := <-p.idle:
		return q, nil
	default:
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	// A smaller one does as well.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipePair{fds[0], fds[1]}, nil
}

// put takes an empty pipe back.
func (p *pipePool) put(q *pipePair) {
	select {
	case p.idle <- q:
	default:
		q.close()
	}
}

// close closes those that nobody has.
func (p *pipePool) close() {
	for {
		select {
		case q := <-p.idle:
			q.close()
		default:
			return
		}
	}
}

func (q *pipePair) close() {
	unix.Close(q.r)
	unix.Close(q.w)
}

// flow copies from src to dst until src ends. Where the workload may have no pipe,
// bytes are copied through memory.
func (t *conn) flow(dst, src *net.TCPConn) (sent int64, err error) {
	in, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	out, err := dst.SyscallConn()
	if err != nil {
		return 0, err
	}
	for {
		q, n, err := t.fill(in, pipeSize)
		switch {
		case err != nil:
			return sent, err
		case q == nil && n == 0:
			return sent, nil
		case q == nil:
			n, err = t.copyOnce(dst, src)
			sent += int64(n)
			if errors.Is(err, io.EOF) {
				return sent, nil
			}
		default:
			n, err = drain(out, q, n)
			sent += int64(n)
			t.release(q, err == nil)
		}
		if err != nil {
			return sent, err
		}
	}
}

// fill waits for bytes and takes some, most at the most, into a pipe. Without a pipe: there are some
// that no pipe may be had for, or (n is 0) no more will come.
func (t *conn) fill(in syscall.RawConn, most int) (q *pipePair, n int, err error) {
	var failed error
	err = in.Read(func(fd uintptr) bool {
		if q = t.acquire(); q == nil {
			n, failed = peekable(int(fd))
			return !errors.Is(failed, unix.EAGAIN)
		}
		n, failed = spliceOnce(q.w, int(fd), most)
		if n > 0 {
			return true
		}
		t.release(q, true)
		q = nil
		return !errors.Is(failed, unix.EAGAIN)
	})
	if err == nil {
		err = failed
	}
	return q, n, err
}

// drain moves the n bytes in a pipe on, and says how many went.
func drain(out syscall.RawConn, q *pipePair, n int) (sent int, err error) {
	var failed error
	err = out.Write(func(fd uintptr) bool {
		for sent < n {
			var m int
			if m, failed = spliceOnce(int(fd), q.r, n-sent); failed != nil {
				return !errors.Is(failed, unix.EAGAIN)
			}
			sent += m
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return sent, err
}

func (t *conn) acquire() *pipePair {
	if t.held.Take(pipeDescriptors, pipeMemory) != nil {
		return nil
	}
	q, err := t.core.pipes.get()
	if err != nil {
		t.held.Give(pipeDescriptors, pipeMemory)
		return nil
	}
	return q
}

// release gives a pipe back; one that is not empty is of no use to others.
func (t *conn) release(q *pipePair, empty bool) {
	if empty {
		t.core.pipes.put(q)
	} else {
		q.close()
	}
	t.held.Give(pipeDescriptors, pipeMemory)
}

// spliceOnce is splice(2) that does not wait; 0 without an error is the end.
func spliceOnce(dst, src, most int) (int, error) {
	for {
		n, err := unix.Splice(src, nil, dst, nil, most, unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return int(max(n, 0)), err
		}
	}
}

// peekable says whether there are bytes to be read: 1, or 0 at the end.
func peekable(fd int) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// copyOnce copies what there is through memory.
func (t *conn) copyOnce(dst, src net.Conn) (int, error) {
	buf := t.core.buffers.get()
	defer t.core.buffers.pool.Put(buf)
	n, err := src.Read(*buf)
	if n > 0 {
		w, werr := dst.Write((*buf)[:n])
		if n = w; werr != nil {
			err = werr
		}
	}
	return n, err
}
