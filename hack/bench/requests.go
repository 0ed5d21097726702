// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	latencyKey = "latency"
	heldKey    = "held"
	// requestsVerb lets this program be the client.
	requestsVerb = "requests"
	// heldIdle and heldActive are how many connections are held at once.
	heldIdle, heldActive = 10_000, 1_000
	// dialling is how many connections are on their way at once.
	dialling = 64
)

// plan is what a client does: requests on active connections, each of which sends one
// after the other, at a rate for all of them together (0: as fast as they are answered),
// while idle ones have had one answer and stay.
type plan struct {
	idle, active int
	rate         float64 // a second
	lasts        time.Duration
}

// outcome is what came of a plan.
type outcome struct {
	count   float64 // of requests
	took    time.Duration
	p50     float64 // µs
	p99     float64
	slowest float64
}

// requests has a client carry out a plan.
func (b *bench) requests(ctx context.Context, c subject, p plan) (o outcome, cpu float64, err error) {
	self, err := os.Executable()
	if err != nil {
		return o, 0, err
	}
	cmd := b.client(ctx, c, self, requestsVerb, strconv.Itoa(p.idle), strconv.Itoa(p.active), fmt.Sprint(p.rate), p.lasts.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return o, 0, err
	}
	if err := cmd.Start(); err != nil {
		return o, 0, err
	}
	lines := bufio.NewScanner(out)
	var before, after time.Duration
	if lines.Scan() { // all connections are there
		before, err = c.cpuTime()
	}
	if err == nil && lines.Scan() {
		if after, err = c.cpuTime(); err == nil {
			var nanoseconds int64
			_, err = fmt.Sscan(lines.Text(), &o.count, &nanoseconds, &o.p50, &o.p99, &o.slowest)
			o.took = time.Duration(nanoseconds)
		}
	}
	if werr := cmd.Wait(); werr != nil || err != nil || o.count == 0 {
		return o, 0, fmt.Errorf("requests: %v, %v; %.0f of them", werr, err, o.count)
	}
	return o, (after - before).Seconds() / o.count, nil
}

// latency is the 99th percentile at half the load that the slowest proxy carries: the
// same for all.
func (b *bench) latency(ctx context.Context, c subject) (sample, error) {
	if b.half.rate == 0 {
		for _, proxy := range b.subjects {
			if proxy.cpu == nil || proxy.name == "nginx-close" {
				continue
			}
			on := b
			if proxy.on != nil {
				on = proxy.on
			}
			s, err := on.wrk(ctx, proxy, "http://"+host+"/", false)
			if err != nil {
				return sample{}, err
			}
			if b.half.rate == 0 || s.value/2 < b.half.rate {
				b.half.rate = s.value / 2
			}
		}
		fmt.Fprintf(os.Stderr, "half the load of the slowest: %.0f requests a second\n", b.half.rate)
	}
	o, cpu, err := b.requests(ctx, c, plan{active: b.conns, rate: b.half.rate, lasts: b.duration})
	return sample{value: o.p99, cpu: cpu}, err
}

// half is what latency has measured.
type half struct{ rate float64 }

// idleConnections is how many there can be: egressd has two descriptors for each, and
// one workload gets a part of those that egressd may have.
func idleConnections() int {
	const enough = 1 << 17
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	if l.Max >= enough || unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: enough, Max: enough}) == nil {
		return heldIdle
	}
	return max(min(heldIdle, int(l.Max)/6-heldActive), 0)
}

// held is how many requests are answered on the active connections while the idle ones
// are there as well.
func (b *bench) held(ctx context.Context, c subject) (sample, error) {
	if c.few {
		return sample{}, errNoPart
	}
	o, cpu, err := b.requests(ctx, c, plan{idle: b.idles, active: heldActive, lasts: b.duration})
	if err != nil {
		return sample{}, err
	}
	return sample{value: o.count / o.took.Seconds(), cpu: cpu}, nil
}

// runPlan is the client. It prints a line when all connections are there, and the
// outcome.
func runPlan(args []string) (err error) {
	var p plan
	if _, err := fmt.Sscan(args[0]+" "+args[1]+" "+args[2], &p.idle, &p.active, &p.rate); err != nil {
		return err
	}
	if p.lasts, err = time.ParseDuration(args[3]); err != nil {
		return err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip4", host)
	if err != nil {
		return err
	}
	conns, err := connect(net.JoinHostPort(addrs[0].String(), "80"), p.idle+p.active)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	took := make([][]float64, p.active)
	errs := make([]error, p.active)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range p.active {
		wg.Go(func() { took[i], errs[i] = p.ask(conns[p.idle+i], i, start) })
	}
	wg.Wait()
	total := time.Since(start)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	for i, c := range conns[:p.idle:p.idle] {
		if i%100 == 0 { // they must be there still
			if err := c.request(); err != nil {
				return fmt.Errorf("an idle connection: %w", err)
			}
		}
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	at := func(share float64) float64 { return all[int(share*float64(len(all)-1))] }
	fmt.Println(len(all), total.Nanoseconds(), at(0.5), at(0.99), at(1))
	return nil
}

// ask is the i-th active connection, and returns what its requests took, in µs.
func (p plan) ask(c *asker, i int, start time.Time) (took []float64, err error) {
	gap := time.Duration(0)
	if p.rate > 0 {
		gap = time.Duration(float64(p.active) / p.rate * float64(time.Second))
	}
	for next := start.Add(gap * time.Duration(i) / time.Duration(p.active)); time.Since(start) < p.lasts; next = next.Add(gap) {
		if gap > 0 {
			time.Sleep(time.Until(next))
		}
		sent := time.Now()
		if err := c.request(); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(sent).Nanoseconds())/1e3)
	}
	return took, nil
}

// asker is a connection with keep-alive.
type asker struct {
	net.Conn
	in *bufio.Reader
}

// request sends a request and reads its answer.
func (a *asker) request() error {
	if _, err := io.WriteString(a.Conn, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(a.in, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // the status says enough without
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// connect makes n connections, each of which has had one answer.
func connect(addr string, n int) ([]*asker, error) {
	conns, errs := make([]*asker, n), make([]error, n)
	var wg sync.WaitGroup
	turn := make(chan struct{}, dialling)
	for i := range n {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				errs[i] = err
				return
			}
			conns[i] = &asker{nc, bufio.NewReaderSize(nc, 1024)}
			errs[i] = conns[i].request()
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return conns, nil
}
