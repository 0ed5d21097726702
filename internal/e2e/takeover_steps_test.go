// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/world"
)

// takeoverSteps are the messages of a takeover, in their order.
var takeoverSteps = []handover.MessageKind{handover.Hello, handover.Offer, handover.Quiesce, handover.Quiet, handover.Done, handover.Released}

// between stands between the daemon that serves and the next that takes over from it, and
// passes on what they say. at is called before each message. wait returns when both have
// hung up.
func (n *node) between(t *testing.T, at func(handover.MessageKind)) (wait func()) {
	t.Helper()
	path := filepath.Join(n.d.StateDir(), handover.SocketName)
	moved := path + ".holder"
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	w, err := handover.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var passing sync.WaitGroup
	passing.Go(func() {
		heir, err := w.Accept()
		// Its name is removed, which the heir needs for itself.
		if err := errors.Join(err, w.Close()); err != nil {
			t.Error(err)
			return
		}
		holder, err := handover.Dial(moved)
		if err := errors.Join(err, os.Remove(moved)); err != nil {
			t.Error(err)
			heir.Close()
			return
		}
		pass := func(from, to *handover.Channel) {
			defer to.Close() // it hears that the other one has hung up
			for {
				m, set, err := from.Receive()
				if err != nil {
					return
				}
				at(m.Kind)
				err = to.Send(m, set)
				set.Close()
				if err != nil {
					return
				}
			}
		}
		passing.Go(func() { pass(heir, holder) })
		pass(holder, heir)
	})
	return passing.Wait
}

// TestTakeoverStandsStill: a daemon that stands still at any step of a takeover, the one
// that serves or the one that comes, as on a machine with too much to do, has clients wait
// and refuses none.
func TestTakeoverStandsStill(t *testing.T) {
	t.Parallel()
	const still = 500 * time.Millisecond
	n := takeoverNode(t)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs, world.API)
	client := n.busy(t)
	for _, whose := range []string{"the holder", "the heir"} {
		for _, step := range takeoverSteps {
			holder := n.d.PID()
			wait := n.between(t, func(k handover.MessageKind) {
				if k != step {
					return
				}
				pid := holder
				if whose == "the heir" {
					pid = n.d.PID()
				}
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Error(err)
				}
				time.AfterFunc(still, func() {
					err := syscall.Kill(pid, syscall.SIGCONT)
					if step == handover.Released && pid == holder && errors.Is(err, syscall.ESRCH) {
						return // that was its last word, and it may have ended before it was stopped
					}
					if err != nil {
						t.Error(err)
					}
				})
			})
			if _, err := n.d.Takeover(t.Context()); err != nil {
				t.Fatalf("%s stands still before %q is heard: %v", whose, step, err)
			}
			wait()
			n.learn(t, world.API)
		}
	}
	if rounds, failed, what := client.ended(t); failed > 0 || rounds < 100 {
		t.Errorf("%d of %d attempts failed: %s", failed, rounds, what)
	}
}

// TestTakeoverToldToEnd: a daemon that is told to end when another one has begun to take
// over, at whatever step, whether something is open in it or not, serves until that one
// has: nothing is refused, and nothing cut.
func TestTakeoverToldToEnd(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t, "--drain-time", "60s")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs, world.API)
	client := n.busy(t)
	for _, open := range []bool{false, true} {
		for _, step := range takeoverSteps[1:] { // before, nobody knows of the other one
			when := fmt.Sprintf("told to end before %q, a stream open: %t", step, open)
			var stream *line
			if open {
				stream = n.open(t, hostPort(via4, 7))
			}
			holder := n.d.PID()
			wait := n.between(t, func(k handover.MessageKind) {
				if k == step {
					if err := syscall.Kill(holder, syscall.SIGTERM); err != nil {
						t.Error(err)
					}
				}
			})
			before, err := n.d.Takeover(t.Context())
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if open {
				if !stream.echo(when) {
					t.Errorf("%s: the stream was cut", when)
				}
				_ = stream.in.Close()
			}
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			if err := before.Wait(ctx); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			cancel()
			wait()
			n.learn(t, world.API)
		}
	}
	if rounds, failed, what := client.ended(t); failed > 0 || rounds < 100 {
		t.Errorf("%d of %d attempts failed: %s", failed, rounds, what)
	}
}
