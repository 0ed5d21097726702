// SPDX-License-Identifier: Apache-2.0

// Package relay moves the bytes of connections: the first ones, which are peeked,
// those of messages, and those that are spliced. It decides nothing, and knows
// nothing of upstreams.
package relay

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/forward/limits"
)

// What a pipe costs while bytes are in it, and how much goes through at once.
const (
	pipeDescriptors = 2
	pipeMemory      = 16 << 10
	PipeSize        = 1 << 20
	// IdlePipes is how many are kept for the next bytes.
	IdlePipes = 16
)

// Pipes has the pipes that splice(2) goes through. A connection has one only
// while bytes are on their way: io.Copy would hold one for each direction for as long as
// the connection is open, which costs an idle one four descriptors of six and most
// of its memory in the kernel.
type Pipes struct{ idle chan *Pipe }

// Pipe is a pipe.
type Pipe struct{ r, w int }

// NewPipes has no pipes yet.
func NewPipes() *Pipes { return &Pipes{idle: make(chan *Pipe, IdlePipes)} }

func (p *Pipes) get() (*Pipe, error) {
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
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, PipeSize)
	return &Pipe{fds[0], fds[1]}, nil
}

// put takes an empty pipe back.
func (p *Pipes) put(q *Pipe) {
	select {
	case p.idle <- q:
	default:
		q.close()
	}
}

// Close closes those that nobody has.
func (p *Pipes) Close() {
	for {
		select {
		case q := <-p.idle:
			q.close()
		default:
			return
		}
	}
}

func (q *Pipe) close() {
	unix.Close(q.r)
	unix.Close(q.w)
}

// Relay copies bytes for one connection.
type Relay struct {
	pipes   *Pipes
	buffers *CopyBuffers
	held    *limits.Lease // pays for the pipes
}

// NewRelay is a relay that has pipes of its own workload's.
func NewRelay(pipes *Pipes, buffers *CopyBuffers, held *limits.Lease) Relay {
	return Relay{pipes: pipes, buffers: buffers, held: held}
}

// flow copies from src to dst until src ends. Where the workload may have no pipe,
// bytes are copied through memory.
func (r *Relay) flow(dst, src *net.TCPConn) (sent int64, err error) {
	in, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	out, err := dst.SyscallConn()
	if err != nil {
		return 0, err
	}
	for {
		q, n, err := r.Fill(in, PipeSize)
		switch {
		case err != nil:
			return sent, err
		case q == nil && n == 0:
			return sent, nil
		case q == nil:
			n, err = r.copyOnce(dst, src)
			sent += int64(n)
			if errors.Is(err, io.EOF) {
				return sent, nil
			}
		default:
			n, err = Drain(out, q, n)
			sent += int64(n)
			r.Release(q, err == nil)
		}
		if err != nil {
			return sent, err
		}
	}
}

// Fill waits for bytes and takes some, most at the most, into a pipe. Without a pipe: there are some
// that no pipe may be had for, or (n is 0) no more will come.
func (r *Relay) Fill(in syscall.RawConn, most int) (q *Pipe, n int, err error) {
	var failed error
	err = in.Read(func(fd uintptr) bool {
		if q = r.acquire(); q == nil {
			n, failed = peekable(int(fd))
			return !errors.Is(failed, unix.EAGAIN)
		}
		n, failed = spliceOnce(q.w, int(fd), most)
		if n > 0 {
			return true
		}
		r.Release(q, true)
		q = nil
		return !errors.Is(failed, unix.EAGAIN)
	})
	if err == nil {
		err = failed
	}
	return q, n, err
}

// Drain moves the n bytes in a pipe on, and says how many went.
func Drain(out syscall.RawConn, q *Pipe, n int) (sent int, err error) {
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

func (r *Relay) acquire() *Pipe {
	if r.held.Take(pipeDescriptors, pipeMemory) != nil {
		return nil
	}
	q, err := r.pipes.get()
	if err != nil {
		r.held.Give(pipeDescriptors, pipeMemory)
		return nil
	}
	return q
}

// Release gives a pipe back; one that is not empty is of no use to others.
func (r *Relay) Release(q *Pipe, empty bool) {
	if empty {
		r.pipes.put(q)
	} else {
		q.close()
	}
	r.held.Give(pipeDescriptors, pipeMemory)
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
func (r *Relay) copyOnce(dst, src net.Conn) (int, error) {
	buf := r.buffers.Get()
	defer r.buffers.Put(buf)
	n, err := src.Read(*buf)
	if n > 0 {
		w, werr := dst.Write((*buf)[:n])
		if n = w; werr != nil {
			err = werr
		}
	}
	return n, err
}
