// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/testenv"
)

// TestIdleHasNoPipe: connections that are spliced have a pipe while bytes are on
// their way, and two descriptors at other times.
func TestIdleHasNoPipe(t *testing.T) {
	const n = 3 * relay.IdlePipes
	r := newRig(t, Opaque)
	conns := r.accepts("opaque.example")
	for range n {
		nc := r.dial()
		up := receive(t, conns)
		write(t, nc, "x")
		readN(t, up, 1)
		write(t, up, "y")
		readN(t, nc, 1)
	}
	budget := r.core.o.Limits.Descriptors
	testenv.Until(t, "idle connections have no pipe", func() bool { return budget.Use().Used == 2*n })
	if open := pipes() - pipesAtStart; open == 0 || open > 2*relay.IdlePipes {
		t.Errorf("%d pipe descriptors are kept", open)
	}
}

// TestBytesWithoutPipe: where a workload may have no pipe the same bytes arrive, in
// both directions at once, with an orderly end.
func TestBytesWithoutPipe(t *testing.T) {
	for _, descriptors := range []int64{1 << 20, 4} {
		r := newRig(t, Opaque, few(descriptors))
		out, back := noise(1, 3<<20), noise(2, 5<<20)
		got := make(chan []byte, 1)
		r.origin("opaque.example", func(nc *net.TCPConn) {
			written := make(chan struct{})
			go func() {
				defer close(written)
				_, _ = nc.Write(back)
				_ = nc.CloseWrite()
			}()
			all, _ := io.ReadAll(nc)
			<-written
			got <- all
		})
		nc := r.dial()
		go func() {
			_, _ = nc.Write(out)
			_ = nc.CloseWrite()
		}()
		all, err := io.ReadAll(nc)
		if err != nil || !bytes.Equal(all, back) {
			t.Errorf("with %d descriptors: %d bytes came back, %v; want %d", descriptors, len(all), err, len(back))
		}
		if all := receive(t, got); !bytes.Equal(all, out) {
			t.Errorf("with %d descriptors: %d bytes arrived, want %d", descriptors, len(all), len(out))
		}
		if open := pipes() - pipesAtStart; (open > 0) != (descriptors > 4) {
			t.Errorf("with %d descriptors: %d of pipes", descriptors, open)
		}
		if err := r.core.Shutdown(t.Context()); err != nil || pipes() != pipesAtStart {
			t.Errorf("afterwards: %v, %d pipe descriptors more than at the start", err, pipes()-pipesAtStart)
		}
	}
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}
