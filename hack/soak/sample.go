// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	metricsURL  = "http://127.0.0.1:15020/metrics"
	sampleEvery = time.Second
)

// metrics reads the daemon's metrics: the text of each line to its value.
func (s *soak) metrics(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			at, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return s.w.Node.Dial(ctx, "tcp", at)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, metricsURL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return parseMetrics(body), nil
}

// parseMetrics reads Prometheus' text format, of which only lines with a plain
// value are of interest.
func parseMetrics(text []byte) map[string]float64 {
	out := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndexByte(lines.Text(), '}'); i >= 0 {
			name, value, ok = lines.Text()[:i+1], strings.TrimSpace(lines.Text()[i+1:]), true
		}
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && !strings.HasPrefix(name, "#") {
			out[name] = v
		}
	}
	return out
}

// sample asks the kernel and the daemon.
func (s *soak) sample(ctx context.Context) (sample, error) {
	out := sample{At: time.Now(), PID: s.d.PID(), Entries: map[string]float64{}}
	if out.PID == 0 {
		return out, errors.New("no daemon")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", out.PID))
	if err != nil {
		return out, err
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 64)
			if err != nil {
				return out, err
			}
			out.RSS = n / 1024
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", out.PID))
	if err != nil {
		return out, err
	}
	out.FDs = float64(len(fds))
	m, err := s.metrics(ctx)
	if err != nil {
		return out, err
	}
	out.Goroutines = m["go_goroutines"]
	for name, v := range m {
		if rest, ok := strings.CutPrefix(name, `egressd_map_entries{map="`); ok {
			out.Entries[strings.TrimSuffix(rest, `"}`)] = v
		}
	}
	if out.Goroutines == 0 || len(out.Entries) == 0 {
		return out, errors.New("the metrics lack goroutines or map entries")
	}
	return out, nil
}

// watch samples until ctx ends. A sample that fails while the daemon is away
// is left out.
func (s *soak) watch(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if one, err := s.sample(ctx); err == nil {
				s.samples = append(s.samples, one)
			}
		}
	}
}
