// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// sample is one measurement.
type sample struct {
	// value is in the discipline's unit.
	value float64
	// cpu is the proxy's processor time per request in seconds, or per
	// gigabyte for throughput; 0 without a proxy.
	cpu float64
}

// discipline is one thing that is measured.
type discipline struct {
	name, unit, cpuUnit string
	// cpuScale converts sample.cpu to cpuUnit.
	cpuScale float64
	run      func(*bench, context.Context, contestant) (sample, error)
}

func disciplines() []discipline {
	return []discipline{
		{"HTTP keep-alive", "req/s", "µs CPU/req", 1e6, func(b *bench, ctx context.Context, c contestant) (sample, error) {
			return b.wrk(ctx, c, "http://"+host+"/", false)
		}},
		{"HTTP new connections", "conn/s", "µs CPU/req", 1e6, func(b *bench, ctx context.Context, c contestant) (sample, error) {
			return b.wrk(ctx, c, "http://"+host+"/", true)
		}},
		{"TLS new connections", "conn/s", "µs CPU/conn", 1e6, func(b *bench, ctx context.Context, c contestant) (sample, error) {
			return b.wrk(ctx, c, "https://"+host+"/", true)
		}},
		{"TCP one stream", "Gbit/s", "ms CPU/GB", 1e3, (*bench).iperf},
		{"connect() that is refused", "µs", "µs CPU/conn", 1e6, func(b *bench, ctx context.Context, c contestant) (sample, error) {
			return b.dial(ctx, c, "", closedPort)
		}},
		{"connect() that succeeds", "µs", "µs CPU/conn", 1e6, func(b *bench, ctx context.Context, c contestant) (sample, error) {
			return b.dial(ctx, c, "", tcpPort)
		}},
		{"connect() to an endpoint", "µs", "µs CPU/conn", 1e6, func(b *bench, ctx context.Context, c contestant) (sample, error) {
			return b.dial(ctx, c, vipV4, tcpPort)
		}},
	}
}

// measure runs all rounds; in each, the contestants take turns in every
// discipline, so that whatever else the machine does hits all alike.
func (b *bench) measure(ctx context.Context) (*result, error) {
	res := newResult(b)
	for round := range b.rounds {
		for _, d := range disciplines() {
			for i := range b.contestants {
				// Each round another one goes first.
				c := b.contestants[(i+round)%len(b.contestants)]
				fmt.Fprintf(os.Stderr, "round %d/%d: %s, %s\n", round+1, b.rounds, d.name, c.name)
				s, err := d.run(b, ctx, c)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				if err != nil {
					res.fail(d, c, err)
					continue
				}
				res.add(d, c, s)
			}
		}
	}
	return res, nil
}

// cpuTime is the proxy's processor time so far.
func (c contestant) cpuTime() (time.Duration, error) {
	if c.cpu == nil {
		return 0, nil
	}
	return c.cpu()
}

var wrkLine = regexp.MustCompile(`(?m)^\s*(\d+) requests in ([0-9.]+)(ms|s|m),`)

// wrk measures requests; with closing, each on a connection of its own.
func (b *bench) wrk(ctx context.Context, c contestant, url string, closing bool) (sample, error) {
	line := []string{"wrk", "-t1", "-c" + strconv.Itoa(b.conns), "-d" + strconv.Itoa(int(b.duration.Seconds())) + "s"}
	if closing {
		line = append(line, "-H", "Connection: close")
	}
	before, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	out, err := b.client(ctx, c, append(line, url)...).CombinedOutput()
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

// iperf measures one TCP stream from the client to the origin.
func (b *bench) iperf(ctx context.Context, c contestant) (sample, error) {
	before, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	out, err := b.client(ctx, c, "iperf3", "-J", "-c", host, "-p", strconv.Itoa(tcpPort), "-t", strconv.Itoa(int(b.duration.Seconds()))).Output()
	if err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return sample{}, fmt.Errorf("iperf3: %w: %s %s", err, out, exit.Stderr)
		}
		return sample{}, fmt.Errorf("iperf3: %w", err)
	}
	after, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	var report struct {
		End struct {
			Received struct {
				Bytes float64 `json:"bytes"`
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return sample{}, fmt.Errorf("iperf3: %w", err)
	}
	r := report.End.Received
	if r.Bytes == 0 {
		return sample{}, errors.New("iperf3: nothing was received")
	}
	return sample{value: r.Rate / 1e9, cpu: (after - before).Seconds() / (r.Bytes / 1e9)}, nil
}
