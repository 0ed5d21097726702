// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/logpipe"
)

// WouldDeny is the verdict of what was let pass in audit mode alone.
const WouldDeny = "would-deny"

// verdicts are what a log may be limited to.
var verdicts = []string{"deny", "direct", "inspect", "proxy", WouldDeny}

// Verdicts reads a list of verdicts, separated by commas; "": all.
func Verdicts(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	out := strings.Split(list, ",")
	for _, v := range out {
		if !slices.Contains(verdicts, v) {
			return nil, fmt.Errorf("%q is no verdict; there are %s", v, strings.Join(verdicts, ", "))
		}
	}
	return out, nil
}

// Bounds of a log.
const (
	// waiting is how many bytes of lines wait for whoever takes them.
	waiting = 1 << 20
	// usual is how much of a buffer is kept.
	usual = 16 << 10
)

// AccessLog writes lines to somebody for whom nobody waits. It is a flow.Observer; without
// a Config it writes nothing. Use New, and Close at the end.
type AccessLog struct {
	config  atomic.Pointer[Config]
	buffers sync.Pool
	rand    func() uint64

	mu      sync.Mutex // guards what follows
	pipes   map[io.Writer]*logpipe.Writer
	dropped atomic.Uint64 // by pipes that are closed
}

// Config says what is written where.
type Config struct {
	Outputs []Output
	// Percent of what there is has a line, drawn one by one, 0 to 100; what has a
	// verdict that is not of Verdicts has none. Empty: all have.
	Percent  float64
	Verdicts []string
	// Wants says whether what is observed has a line of the output with the name; nil: it
	// has.
	Wants func(name string, o *flow.Observation) bool

	out uint64 // of 2^64 draws, how many have a line
}

// Output is one place, and how lines look there.
type Output struct {
	Name   string
	Format *Format
	To     io.Writer

	pipe *logpipe.Writer
}

// New makes an AccessLog that writes nothing yet. rand draws 64 bits.
func New(rand func() uint64) *AccessLog {
	return &AccessLog{rand: rand, pipes: map[io.Writer]*logpipe.Writer{}}
}

// Set has the log write as c says from now on; nil: nothing.
func (l *AccessLog) Set(c *Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c == nil {
		l.config.Store(nil)
		return
	}
	own := *c
	own.Outputs = slices.Clone(c.Outputs)
	for i := range own.Outputs {
		o := &own.Outputs[i]
		if o.pipe = l.pipes[o.To]; o.pipe == nil {
			o.pipe = logpipe.New(o.To, waiting, nil)
			l.pipes[o.To] = o.pipe
		}
	}
	own.out = ^uint64(0)
	if c.Percent < 100 {
		own.out = uint64(c.Percent / 100 * float64(1<<63) * 2)
	}
	l.config.Store(&own)
}

// Observe implements flow.Observer.
func (l *AccessLog) Observe(s *flow.Observation) {
	c := l.config.Load()
	if c == nil || !c.wants(s) || c.Percent < 100 && l.rand() >= c.out {
		return
	}
	b, _ := l.buffers.Get().(*[]byte)
	if b == nil {
		b = new([]byte)
	}
	for i := range c.Outputs {
		if to := &c.Outputs[i]; c.Wants == nil || c.Wants(to.Name, s) {
			*b = to.Format.Append((*b)[:0], s)
			_, _ = to.pipe.Write(*b) // never fails
		}
	}
	if cap(*b) <= usual {
		l.buffers.Put(b)
	}
}

// wants says whether there may be lines of what is seen.
func (c *Config) wants(s *flow.Observation) bool {
	switch s.Kind {
	case flow.Request, flow.Close:
	case flow.Decision:
		if s.Begun || s.Allowed && !s.WouldDeny {
			return false // its end has one
		}
	default:
		return false
	}
	return len(c.Verdicts) == 0 || slices.Contains(c.Verdicts, verdict(s))
}

// Forget passes on what waits for somebody to whom nothing is written any more, at most
// for a time.
func (l *AccessLog) Forget(to io.Writer, wait time.Duration) {
	l.mu.Lock()
	p := l.pipes[to]
	delete(l.pipes, to)
	l.mu.Unlock()
	if p != nil {
		p.Close(wait)
		l.dropped.Add(p.Dropped())
	}
}

// Dropped is how many lines nobody took.
func (l *AccessLog) Dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.dropped.Load()
	for _, p := range l.pipes {
		n += p.Dropped()
	}
	return n
}

// Flush waits until all lines are taken, at most for a time.
func (l *AccessLog) Flush(wait time.Duration) {
	l.mu.Lock()
	pipes := make([]*logpipe.Writer, 0, len(l.pipes))
	for _, p := range l.pipes {
		pipes = append(pipes, p)
	}
	l.mu.Unlock()
	for _, p := range pipes {
		p.Flush(wait)
	}
}

// Close writes what waits, at most for a time, and nothing from then on.
func (l *AccessLog) Close(wait time.Duration) {
	l.config.Store(nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	for to, p := range l.pipes {
		p.Close(wait)
		l.dropped.Add(p.Dropped())
		delete(l.pipes, to)
	}
}

// ParsePercent reads a share in percent.
func ParsePercent(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0 && n <= 100) {
		return 0, fmt.Errorf("%q is no share in percent, 0 to 100", s)
	}
	return n, nil
}
