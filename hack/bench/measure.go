// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// sample is one measurement.
type sample struct {
	// value is in the benchmark's unit.
	value float64
	// cpu is the proxy's processor time per request in seconds, or per
	// gigabyte for throughput; 0 without a proxy.
	cpu float64
}

// benchmark is one thing that is measured.
type benchmark struct {
	// key is what -what calls it.
	key, name, unit, cpuUnit string
	// cpuScale converts sample.cpu to cpuUnit.
	cpuScale float64
	run      func(*bench, context.Context, subject) (sample, error)
}

// The measurements of visitors' TLS.
const (
	terminateKey = "tls-terminate"
	handshakeKey = "tls-handshake"
)

func benchmarks() []benchmark {
	visit := func(key, name, unit, cpuUnit, path string, closing bool) benchmark {
		return benchmark{key, name, unit, cpuUnit, 1e6, func(b *bench, ctx context.Context, c subject) (sample, error) {
			return b.visit(ctx, c, path, closing)
		}}
	}
	http := func(key, name, unit, cpuUnit, url string, closing bool) benchmark {
		return benchmark{key, name, unit, cpuUnit, 1e6, func(b *bench, ctx context.Context, c subject) (sample, error) {
			return b.wrk(ctx, c, url, closing)
		}}
	}
	large := func(key, name string, upload bool) benchmark {
		return benchmark{key, name, "Gbit/s", "ms CPU/GB", 1e3, func(b *bench, ctx context.Context, c subject) (sample, error) {
			return b.large(ctx, c, upload)
		}}
	}
	streams := func(key, name string, port uint16, n int, hello bool) benchmark {
		return benchmark{key, name, "Gbit/s", "ms CPU/GB", 1e3, func(b *bench, ctx context.Context, c subject) (sample, error) {
			return b.streams(ctx, c, port, n, hello)
		}}
	}
	dial := func(key, name, vip string, port uint16) benchmark {
		return benchmark{key, name, "µs", "µs CPU/conn", 1e6, func(b *bench, ctx context.Context, c subject) (sample, error) {
			return b.dial(ctx, c, vip, port)
		}}
	}
	return []benchmark{
		http("http", "HTTP keep-alive", "req/s", "µs CPU/req", "http://"+host+"/", false),
		http("http-new", "HTTP new connections", "conn/s", "µs CPU/req", "http://"+host+"/", true),
		large("http-down", "HTTP, large answers", false),
		large("http-up", "HTTP, large requests", true),
		http("tls-new", "TLS new connections", "conn/s", "µs CPU/conn", "https://"+host+"/", true),
		visit(terminateKey, "TLS that ends here, keep-alive", "req/s", "µs CPU/req", "/", false),
		visit(handshakeKey, "TLS that ends here, full handshakes", "conn/s", "µs CPU/conn", "/direct", true),
		streams("tls-1", "TLS one stream", tlsPort, 1, true),
		streams("tls-32", "TLS 32 streams", tlsPort, 32, true),
		streams("tcp-1", "TCP one stream", tcpPort, 1, false),
		streams("tcp-32", "TCP 32 streams", tcpPort, 32, false),
		{latencyKey, "HTTP keep-alive at half the load of the slowest, 99th percentile", "µs", "µs CPU/req", 1e6, (*bench).latency},
		{heldKey, "HTTP keep-alive, 1,000 connections beside idle ones", "req/s", "µs CPU/req", 1e6, (*bench).held},
		dial("refused", "connect() that is refused", "", closedPort),
		dial("allowed", "connect() that succeeds", "", tcpPort),
		dial("endpoint", "connect() to an endpoint", vipV4, tcpPort),
	}
}

// measure runs all rounds; in each, the subjects take turns in every
// benchmark, so that whatever else the machine does hits all alike.
func (b *bench) measure(ctx context.Context, res *result) error {
	res.contest(b)
	for round := range b.rounds {
		for _, d := range b.benchmarks() {
			for i := range b.subjects {
				// Each round another one goes first.
				c := b.subjects[(i+round)%len(b.subjects)]
				fmt.Fprintf(os.Stderr, "round %d/%d: %s, %s\n", round+1, b.rounds, d.name, c.name)
				on := b
				if c.on != nil {
					on = c.on
				}
				measure := func() (sample, error) { return d.run(on, ctx, c) }
				if on.options.profile != "" && c.name == "egressd" {
					plain := measure
					measure = func() (sample, error) {
						return on.profiled(ctx, fmt.Sprintf("%s-%d", d.key, round+1), plain)
					}
				}
				s, err := measure()
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					res.fail(d, c, err)
					continue
				}
				res.add(d, c, s)
			}
		}
	}
	return nil
}

// cpuTime is the proxy's processor time so far.
func (c subject) cpuTime() (time.Duration, error) {
	if c.cpu == nil {
		return 0, nil
	}
	return c.cpu()
}

var wrkLine = regexp.MustCompile(`(?m)^\s*(\d+) requests in ([0-9.]+)(ms|s|m),`)

// wrk measures requests; with closing, each on a connection of its own.
func (b *bench) wrk(ctx context.Context, c subject, url string, closing bool) (sample, error) {
	if c.httpOnly && strings.HasPrefix(url, "https:") {
		return sample{}, errNoPart
	}
	var flags []string
	if closing {
		flags = []string{"-H", "Connection: close"}
	}
	return b.load(ctx, c, b.conns, append(flags, url)...)
}

// load has wrk send requests over conns connections; flags are what it is called with
// besides.
func (b *bench) load(ctx context.Context, c subject, conns int, flags ...string) (sample, error) {
	line := []string{"wrk", "-t1", "-c" + strconv.Itoa(conns), "-d" + strconv.Itoa(int(b.duration.Seconds())) + "s"}
	before, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	out, err := b.client(ctx, c, append(line, flags...)...).CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	n, d, err := parseWrk(string(out))
	if err != nil {
		return sample{}, err
	}
	return sample{value: n / d.Seconds(), cpu: (after - before).Seconds() / n}, nil
}

// visit is wrk by a client from outside, whose TLS the proxy ends; wrk resumes no
// session.
func (b *bench) visit(ctx context.Context, c subject, path string, closing bool) (sample, error) {
	if c.gateway == "" {
		return sample{}, errNoPart
	}
	visitor := subject{name: c.name + "-visitor", addr: c.gateway, cpu: c.cpu}
	return b.wrk(ctx, visitor, fmt.Sprintf("https://%s:%d%s", host, gatewayPort, path), closing)
}

// parseWrk reads the number of requests and the time. Answers that are no
// success make the measurement worthless: something was refused fast.
func parseWrk(out string) (n float64, d time.Duration, err error) {
	m := wrkLine.FindStringSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("wrk said: %s", out)
	}
	if strings.Contains(out, "Non-2xx") {
		return 0, 0, fmt.Errorf("answers other than 2xx: %s", out)
	}
	n, nerr := strconv.ParseFloat(m[1], 64)
	d, derr := time.ParseDuration(m[2] + m[3])
	if n == 0 || d == 0 {
		return 0, 0, errors.Join(nerr, derr, fmt.Errorf("no request was answered: %s", out))
	}
	return n, d, errors.Join(nerr, derr)
}
