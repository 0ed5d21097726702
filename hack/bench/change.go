// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/world"
)

const (
	// changeRounds is how many hosts are added, one after the other.
	changeRounds = 5
	// lookupVerb lets this program be a workload that waits for a name.
	lookupVerb = "lookup-until"
	// lookupEvery is how often it asks: the precision of the measurement.
	lookupEvery = time.Millisecond
	lookupWait  = 30 * time.Second
)

// change is how long it takes from the rename() of a file with one host more
// to the first answer that a workload gets for it, and what the daemon does
// in that time; medians in milliseconds.
type change struct {
	Effective float64 `json:"effectiveMs"`
	// Notice is the time before and between the steps: noticing the change,
	// waiting for further ones, and the lookup itself.
	Notice  float64 `json:"noticeMs"`
	Read    float64 `json:"readMs"`
	Decode  float64 `json:"decodeMs"`
	Compile float64 `json:"compileMs"`
	Apply   float64 `json:"applyMs"`
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// changes adds hosts one after the other.
func (b *bench) changes(ctx context.Context) (*change, error) {
	// The file in the middle of the policy.
	names := slices.Sorted(maps.Keys(b.policy))
	name := names[len(names)/2]
	content := b.policy[name]
	var all [6][]float64
	for i := range changeRounds {
		added := fmt.Sprintf("added%d.example.com", i)
		b.w.DNS.SetA(added, time.Minute, netip.MustParseAddr(originV4))
		content = slices.Concat(content, []byte("---\n"), entry(fmt.Sprintf("added-%d", i), "DNS", []string{added}))
		total, err := b.change(ctx, filepath.Join(b.daemon.ConfigDir(), name), content, added)
		if err != nil {
			return nil, err
		}
		steps, err := b.appliedSteps()
		if err != nil {
			return nil, err
		}
		all[0] = append(all[0], ms(total))
		all[1] = append(all[1], ms(total-steps[0]-steps[1]-steps[2]-steps[3]))
		for j, s := range steps {
			all[2+j] = append(all[2+j], ms(s))
		}
	}
	m := func(i int) float64 { return median(all[i]) }
	return &change{m(0), m(1), m(2), m(3), m(4), m(5)}, nil
}

// change replaces a file and returns how long it took until added resolved.
func (b *bench) change(ctx context.Context, path string, content []byte, added string) (time.Duration, error) {
	staged, err := b.stage(content)
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	cmd := b.w.Client(ctx, b.subjects[1].cg, self, lookupVerb, net.JoinHostPort(world.ResolverV4, "53"), added)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // killed, or done
	}()
	r := bufio.NewReader(out)
	if _, err := r.ReadString('\n'); err != nil {
		return 0, fmt.Errorf("the client did not start: %w", err)
	}
	start := time.Now()
	if err := os.Rename(staged, path); err != nil {
		return 0, err
	}
	var nanos int64
	if _, err := fmt.Fscan(r, &nanos); err != nil {
		return 0, fmt.Errorf("%s never resolved: %w", added, err)
	}
	return time.Unix(0, nanos).Sub(start), nil
}

var appliedLine = regexp.MustCompile(`msg="policy applied".* read=(\S+) decode=(\S+) compile=(\S+) apply=(\S+)`)

// appliedSteps are the durations in the daemon's newest line about a policy.
func (b *bench) appliedSteps() (steps [4]time.Duration, err error) {
	lines := appliedLine.FindAllStringSubmatch(b.daemon.Log(), -1)
	if len(lines) == 0 {
		return steps, errors.New("the daemon's log does not say that it applied a policy")
	}
	for i, s := range lines[len(lines)-1][1:] {
		if steps[i], err = time.ParseDuration(s); err != nil {
			return steps, err
		}
	}
	return steps, nil
}

// lookup is the workload: it prints a line once a query for a name was
// refused, and the time (Unix, nanoseconds) when one had an address.
func lookup(server, name string) error {
	tick := time.NewTicker(lookupEvery)
	defer tick.Stop()
	for refused := false; ; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		rcode, addrs, err := world.Ask(ctx, "udp", server, name, "A")
		cancel()
		now := time.Now()
		switch {
		case err == nil && len(addrs) > 0:
			if !refused {
				return fmt.Errorf("%s resolved before it was allowed", name)
			}
			fmt.Println(now.UnixNano())
			return nil
		case err == nil && rcode == "NXDOMAIN" && !refused: // the default of --dns-denied-rcode
			refused = true
			fmt.Println("refused")
		}
		<-tick.C
	}
}
