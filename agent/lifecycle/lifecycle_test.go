// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

var errTest = errors.New("of the test")

// daemon is what a Lifecycle tells, and what it is told: a policy with a hash and an
// error, which a reload replaces.
type daemon struct {
	mu       sync.Mutex
	now      control.PolicyStatus
	reloaded control.PolicyStatus
	steps    []string
	lost     error
	said     strings.Builder
}

func (d *daemon) step(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps = append(d.steps, name)
}

func (d *daemon) did() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := strings.Join(d.steps, "|")
	d.steps = nil
	return out
}

func (d *daemon) Ready(status string)    { d.step("ready " + status) }
func (d *daemon) Reloading()             { d.step("reloading") }
func (d *daemon) Stopping(status string) { d.step("stopping " + status) }
func (d *daemon) Status(status string)   { d.step("status " + status) }
func (d *daemon) Named() []string        { return []string{"/c"} }
func (d *daemon) Err() error             { return d.lost }

func (d *daemon) Report() (control.PolicyStatus, []istio.Finding) { return d.now, nil }

func (d *daemon) Reload() {
	d.step("reload")
	d.now = d.reloaded
}

func (d *daemon) ReloadObjects() { d.step("objects") }

func (d *daemon) lifecycle(mode policy.Mode, isDaemon bool) *Lifecycle {
	return New(Options{
		Daemon: isDaemon, Version: "v1", Mode: mode, PinDir: "/nowhere", Manager: d, Policy: d, Log: slog.New(slog.NewTextHandler(&d.said, nil)),
	})
}

const hash = "0123456789abcdef"

// TestReload: a reload waits for what is being written, and people hear what came of
// it once.
func TestReload(t *testing.T) {
	good, other, bad := control.PolicyStatus{Hash: hash}, control.PolicyStatus{Hash: "ffff"}, control.PolicyStatus{Hash: hash, Error: "line 3"}
	for _, c := range []struct {
		what        string
		before, now control.PolicyStatus
		says        string
		status      string
	}{
		{"the same", good, good, "the policy has not changed", "Ready: "},
		{"another one", good, other, "", "Ready: "},
		{"good again", bad, good, "good again", "Ready: "},
		{"bad", good, bad, "", "is not applied; mode enforce, policy 0123456789ab of"},
		{"still bad", bad, bad, "", "stays in force: line 3"},
	} {
		d := &daemon{now: c.before, reloaded: c.now}
		l := d.lifecycle(policy.Enforce, true)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for range 3 { // nobody waits, and once is enough
			l.Reload()
		}
		running.Go(func() {
			l.Reloads(ctx, func(context.Context) { d.step("written") }, func() { d.step("also"); cancel() })
		})
		running.Wait()
		did := d.did()
		if !strings.HasPrefix(did, "reloading|written|also|reload|ready ") || !strings.Contains(did, c.status) {
			t.Errorf("%s: %s", c.what, did)
		}
		said := strings.Replace(d.said.String(), "the policy is read again, because a reload was requested", "", 1)
		if c.says != "" && !strings.Contains(said, c.says) || c.says == "" && strings.Contains(said, "hash=") {
			t.Errorf("%s: said %s", c.what, said)
		}
		if l.FilesChanged(); !strings.HasPrefix(d.did(), "reload|status ") {
			t.Errorf("%s: the files changed", c.what)
		}
		if l.ObjectsChanged(); !strings.HasPrefix(d.did(), "objects|status ") {
			t.Errorf("%s: the objects changed", c.what)
		}
	}
}

// TestReloadNow: who waits for a reload hears what came of one that began after he asked,
// and who does not want to wait any more is let go.
func TestReloadNow(t *testing.T) {
	d := &daemon{now: control.PolicyStatus{Hash: hash}, reloaded: control.PolicyStatus{Hash: "ffff", Error: "line 3"}}
	l := d.lifecycle(policy.Enforce, true)
	gone, leave := context.WithCancelCause(t.Context())
	leave(errTest)
	if o, err := l.ReloadNow(gone); !errors.Is(err, errTest) {
		t.Errorf("nobody reloads: %+v, %v", o, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began, goOn := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		l.Reloads(ctx, func(context.Context) { began <- struct{}{}; <-goOn }, func() {})
	})
	<-began // the one of who has gone
	outcome := make(chan Reloaded, 1)
	running.Go(func() {
		o, err := l.ReloadNow(ctx)
		if err != nil {
			t.Error(err)
		}
		outcome <- o
	})
	for { // until it is asked for
		l.reloads.mu.Lock()
		n := len(l.reloads.wait)
		l.reloads.mu.Unlock()
		if n > 0 {
			break
		}
		runtime.Gosched()
	}
	goOn <- struct{}{}
	<-began // what was asked for meanwhile has a reload of its own
	select {
	case o := <-outcome:
		t.Errorf("told before it was done: %+v", o)
	default:
	}
	d.now = control.PolicyStatus{Hash: hash}
	goOn <- struct{}{}
	if o := <-outcome; o.Policy.Error != "line 3" || !o.Changed {
		t.Errorf("%+v", o)
	}
	cancel()
	running.Wait()
}

// TestEndings: who ends says what traffic can do from then on.
func TestEndings(t *testing.T) {
	for _, c := range []struct {
		what string
		e    Ending
		want string
	}{
		{"it stays in force", Ending{}, "the policy stays in force; what needs the proxy or DNS is refused"},
		{"unload", Ending{Unload: true, NotReady: errTest}, trafficOpen},
		{"it never was ready, and nothing is pinned", Ending{NotReady: errTest, NotLasting: errTest}, trafficOpen},
		{"pins that end with it", Ending{NotLasting: errTest}, "when egressd has ended, " + trafficOpen},
	} {
		d := &daemon{}
		d.lifecycle(policy.Enforce, true).Stops(c.e)
		if did := d.did(); !strings.HasPrefix(did, "stopping Stopping: "+c.want) || !strings.Contains(d.said.String(), c.want) {
			t.Errorf("%s: %s, said %s", c.what, did, d.said.String())
		}
	}
}

// TestReady: people hear of the mode and of what is not held, and a command's gateway
// says nothing of its start and its end.
func TestReady(t *testing.T) {
	for mode, want := range map[policy.Mode]string{policy.Enforce: TrafficOn, policy.Audit: "denials are logged and let pass"} {
		d := &daemon{now: control.PolicyStatus{Hash: hash}, lost: errTest}
		d.lifecycle(mode, true).Ready(d)
		if said := d.said.String(); !strings.Contains(said, want) || !strings.Contains(said, "held=false") || !strings.Contains(said, "policy=0123456789ab ") {
			t.Errorf("%v: said %s", mode, said)
		}
		if did := d.did(); !strings.HasPrefix(did, "ready Ready: mode "+mode.String()) {
			t.Errorf("%v: %s", mode, did)
		}
	}
	for over, want := range map[bool]string{true: "serves until this one takes over", false: "until it is ready, " + trafficOpen} {
		d := &daemon{}
		if d.lifecycle(policy.Enforce, true).Starts(d, over); !strings.Contains(d.said.String(), want) {
			t.Errorf("over another one %t: %s", over, d.said.String())
		}
		l := d.lifecycle(policy.Enforce, false)
		d.said.Reset()
		l.Starts(d, over)
		if l.Stops(Ending{}); d.said.Len() > 0 {
			t.Errorf("a command's gateway says %s", d.said.String())
		}
	}
}

// TestReadiness: a daemon is ready while it serves and nothing is missing.
func TestReadiness(t *testing.T) {
	var lack error
	r := NewReadiness(func() error { return lack }, func() error { return nil })
	if err := r.Err(); !errors.Is(err, errNotServing) {
		t.Errorf("before: %v", err)
	}
	r.Serves(true)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	lack = errTest
	if err := r.Err(); !errors.Is(err, errTest) {
		t.Errorf("something is missing: %v", err)
	}
	if r.Serves(false); !errors.Is(r.Err(), errNotServing) {
		t.Errorf("after: %v", r.Err())
	}
}

// TestWatch: the watchdog hears of a daemon that answers, not of one that does not,
// and of one check at a time; one that stops is alive.
func TestWatch(t *testing.T) {
	var said strings.Builder
	ctx, cancel := context.WithCancel(t.Context())
	serving, stop := context.WithCancel(t.Context())
	tick, alive := make(chan time.Time), make(chan struct{})
	checks, answers := make(chan struct{}), make(chan error)
	var running sync.WaitGroup
	running.Go(func() {
		watch(ctx, serving, tick, func() { alive <- struct{}{} }, func(context.Context) error {
			checks <- struct{}{}
			return <-answers
		}, slog.New(slog.NewTextHandler(&said, nil)))
	})
	tick <- time.Time{}
	<-checks
	tick <- time.Time{} // it hangs: nothing is told, and no second check begins
	tick <- time.Time{}
	answers <- nil
	<-alive
	tick <- time.Time{}
	<-checks
	answers <- errTest
	for begun := false; !begun; { // until the answer has been heard
		select {
		case tick <- time.Time{}:
		case <-checks:
			begun = true
		}
	}
	stop()
	for told := false; !told; { // the last tick of the loop above may be the one
		select {
		case tick <- time.Time{}:
		case <-alive:
			told = true
		}
	}
	answers <- errTest // an error of one that stops is none
	cancel()
	running.Wait()
	if n := strings.Count(said.String(), "does not answer"); n != 1 {
		t.Errorf("said %d times: %s", n, said.String())
	}
}

// TestNotStarted: whoever starts egressd hears whether traffic is open, and what to do;
// everything is denied only where that was asked for and nothing is in force.
func TestNotStarted(t *testing.T) {
	inUse := errors.Join(errTest, bpffs.ErrInUse)
	for _, c := range []struct {
		what    string
		err     error
		traffic string
		lock    bool
		lockErr error
		locked  int
		held    bool
		says    string
	}{
		{"open", errTest, trafficOpen, false, nil, 0, false, "with --on-failure lock nothing gets out"},
		{"locked", errTest, trafficOpen, true, nil, 1, true, trafficShut},
		{"not locked", errTest, trafficOpen, true, errTest, 1, false, "captured processes are NOT filtered"},
		{"held by the last run", errTest, trafficHeld, true, nil, 0, true, "unload"},
		{"another one runs", inUse, trafficOpen, true, nil, 0, false, "the egressd that runs decides"},
	} {
		var said strings.Builder
		locked := 0
		var lock func() error
		if c.lock {
			lock = func() error { locked++; return c.lockErr }
		}
		err := NotStarted(c.err, func() string { return c.traffic }, lock, slog.New(slog.NewTextHandler(&said, nil)))
		if !errors.Is(err, errTest) || locked != c.locked || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: %v, locked %d times, said %s", c.what, err, locked, said.String())
		}
		failed := (*StartError)(nil)
		if is := errors.As(err, &failed); is != !errors.Is(c.err, bpffs.ErrInUse) || is && failed.Held != c.held {
			t.Errorf("%s: %#v", c.what, err)
		}
	}
	if err := NotStarted(nil, nil, nil, nil); err != nil {
		t.Error(err)
	}
}
