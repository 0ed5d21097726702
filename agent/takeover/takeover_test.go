// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

var quiet = slog.New(slog.DiscardHandler)

// daemon is one that runs on a state directory and waits for heirs.
type daemon struct {
	dir      string
	prepared chan *handover.Channel
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{t.TempDir(), make(chan *handover.Channel)}
	lock, err := state.Lock(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	t.Cleanup(func() { cancel(); loops.Wait(); lock.Close() })
	err = Await{
		Version: "old", Cgroup: 7, Prepared: d.prepared, Prepares: func(bool) {}, Log: quiet,
		Descriptors: func() (*handover.SocketSet, error) {
			set := &handover.SocketSet{}
			return set, set.Add(StateLock, lock)
		},
	}.Open(ctx, d.dir, func(f func() error) { loops.Go(func() { _ = f() }) })
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// reach takes over as far as that the other one waits for this one to be prepared.
func (d *daemon) reach(t *testing.T) *Incumbent {
	t.Helper()
	lock, h, set, err := LockOrReach(t.Context(), d.dir, "new", true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close(); set.Close(); h.Close() })
	if h == nil || h.Cgroup != 7 || h.Version() != "old" {
		t.Fatalf("%+v", h)
	}
	return h
}

// quiesce makes the heir's side ask, and returns what the daemon has of it then; learn
// is what the heir learns with.
func (d *daemon) quiesce(t *testing.T, h *Incumbent, learn func(handover.LearnedAnswer) error) (*Heir, chan error) {
	t.Helper()
	asked := make(chan error, 1)
	go func() { asked <- h.Quiesce(learn) }()
	select {
	case c := <-d.prepared:
		return NewHeir(c, quiet), asked
	case err := <-asked:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("nobody is prepared")
	}
	return nil, nil
}

// TestTakenOver: a daemon that is prepared gets everything, learns what the other one
// answers meanwhile, and the other one is told when it serves.
func TestTakenOver(t *testing.T) {
	d := newDaemon(t)
	if _, _, _, err := LockOrReach(t.Context(), d.dir, "new", false, quiet); !errors.Is(err, state.ErrRuns) || !strings.Contains(err.Error(), "--takeover") {
		t.Errorf("where no takeover is wanted: %v", err)
	}
	h := d.reach(t)
	got := make(chan handover.LearnedAnswer, 1)
	heir, asked := d.quiesce(t, h, func(a handover.LearnedAnswer) error {
		got <- a
		if a.Name == "b.example" {
			return errors.New("not known here")
		}
		return nil
	})
	served := make(chan error, 1)
	go func() { served <- heir.Serve() }()
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	answers := []learned.Record{{Addr: netip.MustParseAddr("192.0.2.1"), TTL: time.Minute}, {Addr: netip.MustParseAddr("2001:db8::1"), TTL: time.Second}}
	if err := heir.Learn("w", "a.example", answers); err != nil {
		t.Error(err)
	}
	if a := <-got; a.Workload != "w" || a.Name != "a.example" || len(a.Addrs) != 2 || a.Addrs[1].Addr != answers[1].Addr || a.Addrs[1].TTL != time.Second {
		t.Errorf("%+v", a)
	}
	if err := heir.Learn("w", "b.example", answers); err == nil || !strings.Contains(err.Error(), "not known here") {
		t.Errorf("what the heir refuses: %v", err)
	}
	<-got
	settled := make(chan error, 1)
	go func() { settled <- h.Settle() }()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	heir.Release()
	if err := <-settled; err != nil {
		t.Error(err)
	}
	heir.Leave()
	<-h.Ended()
	if err := heir.Learn("w", "c.example", answers); err == nil {
		t.Error("an heir that is gone learns")
	}
}

// TestGoesOn: the daemon that runs goes on when the one that comes hangs up, and
// tells it when it does not let go; that one does not serve then.
func TestGoesOn(t *testing.T) {
	d := newDaemon(t)
	h := d.reach(t)
	heir, asked := d.quiesce(t, h, nil)
	served := make(chan error, 1)
	go func() { served <- heir.Serve() }()
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	h.Leave()
	err := <-served
	if err == nil {
		t.Fatal("one that hung up serves")
	}
	heir.Withdraw(err)

	d = newDaemon(t)
	h = d.reach(t)
	heir, asked = d.quiesce(t, h, nil)
	withdrawn := make(chan struct{})
	go func() { defer close(withdrawn); heir.Withdraw(errors.New("changed its mind")) }()
	if err := <-asked; !errors.Is(err, handover.ErrWithdrawn) || !strings.Contains(err.Error(), "changed its mind") {
		t.Errorf("before it was quiet: %v", err)
	}
	h.Leave()
	<-withdrawn
}

// TestStops: a daemon that comes when the other one stops, and hands nothing over any
// more, waits for its end and starts then; one that is told to end does not wait.
func TestStops(t *testing.T) {
	dir := t.TempDir()
	old, err := state.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := LockOrReach(ctx, dir, "new", true, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("told to end: %v", err)
	}
	told := make(chan string, 8)
	log := slog.New(slog.NewTextHandler(lines(told), nil))
	type got struct {
		lock *os.File
		h    *Incumbent
		err  error
	}
	done := make(chan got, 1)
	go func() {
		lock, h, _, err := LockOrReach(t.Context(), dir, "new", true, log)
		done <- got{lock, h, err}
	}()
	if line := <-told; !strings.Contains(line, "starts when it has ended") {
		t.Errorf("said %s", line)
	}
	old.Close()
	g := <-done
	if g.err != nil || g.h != nil || g.lock == nil {
		t.Fatalf("when the other one has ended: %+v", g)
	}
	g.lock.Close()
}

// lines passes each line on.
type lines chan<- string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// TestStands: a daemon before that says nothing more when this one serves is killed, and
// this one has everything; where that cannot be done it does not serve.
func TestStands(t *testing.T) {
	for _, refused := range []error{nil, errors.New("of another namespace")} {
		d := newDaemon(t)
		h := d.reach(t)
		heir, asked := d.quiesce(t, h, nil)
		served := make(chan error, 1)
		go func() { served <- heir.Serve() }()
		if err := <-asked; err != nil {
			t.Fatal(err)
		}
		killed := false
		h.patience = time.Millisecond
		h.kill = func() error {
			killed = true
			if refused == nil {
				heir.conn.Close()
			}
			return refused
		}
		if err := h.Settle(); !errors.Is(err, refused) || !killed {
			t.Errorf("settle: %v, where killing it says %v", err, refused)
		}
		h.Leave()
		<-served
		heir.Leave()
	}
}

// TestDiesQuietly: where the daemon before dies during the switch, the one that comes
// has everything alone.
func TestDiesQuietly(t *testing.T) {
	d := newDaemon(t)
	h := d.reach(t)
	heir, asked := d.quiesce(t, h, nil)
	heir.Leave()
	if err := <-asked; err != nil {
		t.Errorf("quiesce: %v", err)
	}
	if err := h.Settle(); err != nil {
		t.Errorf("settle: %v", err)
	}
	<-h.Ended()
}
