// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// disturbance is something that is done to egressd or around it.
type disturbance struct {
	name string
	// excuses is the greatest need of which attempts may fail meanwhile: with
	// daemon also those with the need resolver. kernel: none may.
	excuses need
	// weight is how often it is chosen, beside the others.
	weight int
	do     func(context.Context, *soak) error
}

// stopTime is how long the daemon stands still.
const stopTime = 1500 * time.Millisecond

var disturbances = []disturbance{
	{"kill", daemon, 3, func(ctx context.Context, s *soak) error {
		_ = s.d.Kill() // says that it was killed
		return s.d.Start(ctx)
	}},
	{"restart", daemon, 2, func(ctx context.Context, s *soak) error {
		if err := s.d.Terminate(); err != nil {
			return err
		}
		return s.d.Start(ctx)
	}},
	{"takeover", kernel, 4, func(ctx context.Context, s *soak) error {
		before, err := s.d.Takeover(ctx)
		if err != nil {
			return err
		}
		return before.Wait(ctx) // its connections end first
	}},
	{"killed takeover", daemon, 2, killedTakeover},
	{"reload", kernel, 4, reload},
	{"broken policy", kernel, 1, broken},
	{"hangup", kernel, 1, func(_ context.Context, s *soak) error { return s.d.Signal(syscall.SIGHUP) }},
	{"stopped", daemon, 1, func(ctx context.Context, s *soak) error {
		if err := s.d.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		pause(ctx, stopTime)
		return s.d.Signal(syscall.SIGCONT)
	}},
	// The last answers are given meanwhile. They do not outlive the daemon, and who
	// asked when there was none waits for his time-out before he asks again.
	{"silent DNS", kernel, 2, func(ctx context.Context, s *soak) error {
		pause(ctx, attemptTime+time.Second)
		s.w.DNS.SetSilent(true)
		pause(ctx, 4*time.Second)
		s.w.DNS.SetSilent(false)
		return nil
	}},
	{"slow DNS", kernel, 1, func(ctx context.Context, s *soak) error {
		s.w.DNS.SetDelay(300 * time.Millisecond)
		pause(ctx, 4*time.Second)
		s.w.DNS.SetDelay(0)
		return nil
	}},
	{"new cgroups", kernel, 2, cgroups},
}

// killedTakeover kills a daemon somewhere in its taking over. The one before goes
// on, unless all was handed over: then it ends, and another one is started.
func killedTakeover(ctx context.Context, s *soak) error {
	const longest, drained = 1200 * time.Millisecond, 8 * time.Second // a start takes less, a drain too
	before, err := s.d.Reach(ctx)
	if err != nil {
		return err
	}
	pause(ctx, time.Duration(rand.Int64N(int64(longest))))
	_ = s.d.Kill() // says that it was killed
	waiting, cancel := context.WithTimeout(ctx, drained)
	defer cancel()
	if err := before.Wait(waiting); waiting.Err() == nil {
		if err != nil {
			return fmt.Errorf("the one before: %w", err)
		}
		return s.d.Start(ctx)
	}
	s.d.Return(before)
	return s.d.WaitReady(ctx)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// write puts a policy file in its place as a whole.
func (s *soak) write(name, text string) error {
	at := filepath.Join(s.d.ConfigDir(), name)
	if err := os.WriteFile(at+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(at+".new", at)
}

// reload changes what no client asks for, and waits until that is in force.
func reload(ctx context.Context, s *soak) error {
	s.changes++
	if err := s.write("changing.yaml", serviceEntry("changing", fmt.Sprintf("n%d.changing.example.net", s.changes))); err != nil {
		return err
	}
	return s.policyOther(ctx, s.policy)
}

// broken writes what is no policy; what is in force stays.
func broken(ctx context.Context, s *soak) error {
	if err := s.write("broken.yaml", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nspec: [\n"); err != nil {
		return err
	}
	pause(ctx, 2*time.Second)
	return os.Remove(filepath.Join(s.d.ConfigDir(), "broken.yaml"))
}

// cgroups makes many that live for one client each.
func cgroups(ctx context.Context, s *soak) error {
	const n, atOnce = 30, 3
	slots := make(chan struct{}, atOnce)
	errs := make([]error, n)
	var running sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			cg, err := s.d.Root.Child(fmt.Sprintf("short-%d", i))
			if err == nil {
				err = errors.Join(s.once(ctx, cg), cg.Close())
			}
			errs[i] = err
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// disturb does one after the other until ctx ends.
func (s *soak) disturb(ctx context.Context, r *rand.Rand) {
	total := 0
	for _, d := range s.disturbances {
		total += d.weight
	}
	for {
		pause(ctx, time.Second+time.Duration(r.Int64N(int64(3*time.Second))))
		if ctx.Err() != nil {
			return
		}
		n := r.IntN(total)
		for _, d := range s.disturbances {
			if n -= d.weight; n < 0 {
				s.disturbOnce(d)
				break
			}
		}
	}
}

// disturbOnce is not cut off by the end of the soak: the daemon has to live
// when everything is counted.
func (s *soak) disturbOnce(d disturbance) {
	ctx, cancel := context.WithTimeout(context.Background(), disturbTime)
	defer cancel()
	w := s.judge.begin(d.name, d.excuses)
	err := d.do(ctx, s)
	s.judge.end(w, err)
}

const (
	// disturbTime bounds a disturbance with what it takes to get over it.
	disturbTime = time.Minute
	// afterwards is how much longer what fails is excused: a client that was
	// refused may have to wait for its own time-out.
	afterwards = 500 * time.Millisecond
)

func serviceEntry(name string, hosts ...string) string {
	text := `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ` + name + `}
spec:
  hosts:
`
	for _, h := range hosts {
		text += "  - " + h + "\n"
	}
	return text + `  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: tls, protocol: TLS}
  resolution: DNS
  location: MESH_EXTERNAL
---
`
}

// database is a ServiceEntry for the database at its addresses.
func databaseEntry() string {
	return `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: database}
spec:
  hosts: [` + world.ExternalDB + `]
  addresses: [` + world.DBV4 + `, "` + world.DBV6 + `"]
  ports:
  - {number: 3306, name: tcp, protocol: TCP}
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints:
  - {address: ` + world.DBV4 + `}
  - {address: "` + world.DBV6 + `"}
---
`
}
