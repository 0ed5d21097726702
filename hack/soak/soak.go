// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/world"
)

const (
	// rotatingName has another of rotatingSites addresses each second.
	rotatingName  = "rotating.example.net"
	rotatingSites = 4
	rotateEvery   = time.Second
	// quietTime is how long the daemon has to give everything back.
	quietTime  = 45 * time.Second
	quietEvery = 500 * time.Millisecond
	// progressEvery is how often a line says how it goes.
	progressEvery = 10 * time.Second
)

// soak is one that runs.
type soak struct {
	options
	w            *world.World
	d            *world.Daemon
	cg           *world.Cgroup // of the clients
	disturbances []disturbance
	judge        *judge
	samples      []sample
	changes      int    // of the policy
	policy       string // its hash when it was last looked at
	allowed      map[netip.Addr]bool
}

// soakFor builds a little internet, soaks egressd in it and takes all away
// again. The error says that it could not be tried.
func soakFor(ctx context.Context, o options, ds []disturbance) (res *result, err error) {
	s := &soak{options: o, disturbances: ds, judge: newJudge(time.Now())}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	first, err := s.sample(ctx)
	if err != nil {
		return nil, err
	}
	s.samples = append(s.samples, first)
	start := time.Now()
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	s.settle(first)
	s.judge.silent()
	res = &result{
		Seed: o.seed, Seconds: time.Since(start).Seconds(), Kinds: s.judge.list(), Disturbances: s.judge.disturbed(),
		Samples: s.samples,
	}
	for _, text := range grown(s.samples) {
		s.judge.blame("growth", text)
	}
	for p, n := range s.w.Wire() {
		res.Packets += n
		if !s.allowed[p.Dst] && !p.Dst.IsLinkLocalUnicast() && !p.Dst.IsMulticast() {
			res.Astray += n
			s.judge.blame("wire", fmt.Sprintf("%d packets to %v, protocol %d, port %d", n, p.Dst, p.Protocol, p.Port))
		}
	}
	if res.Packets == 0 {
		s.judge.blame("wire", "the sniffer saw nothing")
	}
	if s.w.Stranger.Conns() > 0 {
		s.judge.blame("wire", "the stranger had connections")
	}
	res.Faults = s.judge.faults
	return res, nil
}

func (s *soak) build(ctx context.Context) (err error) {
	if s.w, err = world.New(world.Options{}); err != nil {
		return err
	}
	s.allowed = map[netip.Addr]bool{}
	for _, a := range []string{
		world.DBV4, world.DBV6, world.ResolverV4, world.ResolverV6, world.OtherResolverV4, world.OtherResolverV6,
	} {
		s.allowed[netip.MustParseAddr(a)] = true
	}
	for _, o := range []*world.Origin{s.w.API, s.w.API2} {
		for _, a := range o.Addrs() {
			s.allowed[a] = true
		}
	}
	for i := range rotatingSites {
		at := netip.AddrFrom4([4]byte{151, 101, 20, byte(1 + i)})
		if _, err := s.w.AddOrigin(world.OriginConfig{Names: []string{rotatingName}, V4: at}); err != nil {
			return err
		}
		s.allowed[at] = true
	}
	s.rotate(0)
	s.d, err = s.w.NewDaemon(s.egressd, map[string][]byte{
		"api.yaml":      []byte(serviceEntry("api", world.API, world.API2, rotatingName)),
		"database.yaml": []byte(databaseEntry()),
		"changing.yaml": []byte(serviceEntry("changing", "n0.changing.example.net")),
	})
	if err != nil {
		return err
	}
	if s.cg, err = s.d.Root.Child("clients"); err != nil {
		return err
	}
	if err := s.d.Start(ctx); err != nil {
		return err
	}
	// Addresses have to be learned before connections to them may be made.
	for _, name := range []string{world.API, world.API2} {
		out, err := s.w.Client(ctx, s.cg, "getent", "ahosts", name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
	}
	return s.policyOther(ctx, "")
}

func (s *soak) close() error {
	var errs []error
	if s.cg != nil {
		errs = append(errs, s.cg.Close())
	}
	if s.d != nil {
		errs = append(errs, s.d.Stop())
	}
	if s.w != nil {
		errs = append(errs, s.w.Close())
	}
	return errors.Join(errs...)
}

func (s *soak) rotate(n int) {
	s.w.DNS.SetA(rotatingName, rotateEvery, netip.AddrFrom4([4]byte{151, 101, 20, byte(1 + n%rotatingSites)}))
}

// load runs clients and disturbances, and returns when both have ended.
func (s *soak) load(ctx context.Context) error {
	disturbing, stop := context.WithTimeout(ctx, s.time)
	defer stop()
	var running sync.WaitGroup
	running.Go(func() { s.watch(disturbing) })
	running.Go(func() {
		for n := 1; disturbing.Err() == nil; n++ {
			pause(disturbing, rotateEvery)
			s.rotate(n)
		}
	})
	running.Go(func() { s.disturb(disturbing, rand.New(rand.NewPCG(s.seed, 0))) })
	running.Go(func() { s.say(disturbing) })
	c, in, err := s.client(context.WithoutCancel(ctx), s.cg)
	if err != nil {
		stop()
		running.Wait()
		return err
	}
	running.Wait()
	_ = in.Close() // the client ends
	return c()
}

// client starts one that goes on until in is closed; wait waits for it.
func (s *soak) client(ctx context.Context, cg *world.Cgroup, more ...string) (wait func() error, in io.Closer, err error) {
	c := s.w.Client(ctx, cg, s.self, append([]string{
		"client", "-ca", s.w.CAFile(),
		"-api4", s.w.API.V4.String(), "-api6", s.w.API.V6.String(),
	}, more...)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	pipe, err := c.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := c.Start(); err != nil {
		return nil, nil, err
	}
	heard := make(chan error, 1)
	go func() {
		dec := json.NewDecoder(out)
		for {
			var r report
			if err := dec.Decode(&r); err != nil {
				heard <- err
				return
			}
			s.judge.hear(r)
		}
	}()
	return func() error {
		if err := <-heard; !errors.Is(err, io.EOF) {
			return fmt.Errorf("a client's report: %w", err)
		}
		if err := c.Wait(); err != nil {
			return fmt.Errorf("a client: %w: %s", err, stderr.Bytes())
		}
		return nil
	}, pipe, nil
}

// once runs a client that tries each kind once.
func (s *soak) once(ctx context.Context, cg *world.Cgroup) error {
	wait, in, err := s.client(ctx, cg, "-once")
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // its end has closed it
	return wait()
}

// policyOther waits until another policy than that of hash is in force.
func (s *soak) policyOther(ctx context.Context, hash string) error {
	for {
		out, err := s.d.Command(ctx, "status", "-o", "json", "--state-dir", s.d.StateDir()).Output()
		var st struct {
			Policy struct {
				Hash string `json:"hash"`
			} `json:"policy"`
		}
		if err == nil {
			err = json.Unmarshal(out, &st)
		}
		if err == nil && st.Policy.Hash != "" && st.Policy.Hash != hash {
			s.policy = st.Policy.Hash
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the policy is still that of %.12q: %w", hash, errors.Join(ctx.Err(), err))
		case <-time.After(quietEvery):
		}
	}
}

// settle waits until the daemon has given back what the load took.
func (s *soak) settle(first sample) {
	ctx, cancel := context.WithTimeout(context.Background(), quietTime)
	defer cancel()
	var text string
	for {
		if now, err := s.sample(ctx); err != nil {
			text = err.Error()
		} else if more := unsettled(first, now); len(more) == 0 {
			return
		} else {
			text = strings.Join(more, ", ")
		}
		select {
		case <-ctx.Done():
			s.judge.blame("quiet", fmt.Sprintf("%v after the load: %s", quietTime, text))
			return
		case <-time.After(quietEvery):
		}
	}
}

// unsettled says what a quiet daemon has more than at the start.
func unsettled(first, now sample) []string {
	var out []string
	if now.FDs > first.FDs+24 {
		out = append(out, fmt.Sprintf("%.0f descriptors, %.0f at the start", now.FDs, first.FDs))
	}
	if now.Goroutines > first.Goroutines+24 {
		out = append(out, fmt.Sprintf("%.0f goroutines, %.0f at the start", now.Goroutines, first.Goroutines))
	}
	return out
}

// say tells how it goes.
func (s *soak) say(ctx context.Context) {
	if s.progress == nil {
		return
	}
	fmt.Fprintf(s.progress, "soaking for %v, seed %d\n", s.time, s.seed)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			good, excused, failed := 0, 0, 0
			for _, t := range s.judge.list() {
				good, excused, failed = good+t.Good, excused+t.Excused, failed+t.Failed
			}
			fmt.Fprintf(s.progress, "%s: %d attempts as they should, %d excused, %d failed; %v\n",
				s.judge.at(time.Now()), good, excused, failed, s.judge.disturbed())
		}
	}
}
