// SPDX-License-Identifier: Apache-2.0

// Package flowlog writes the flow log: a line for each event, to files, streams, system
// logs and collectors, for which nobody waits. It is no decision about what is told: of
// denials of a kind the first comes and then their number, as from the recorder.
package flowlog

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/internal/collector"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/internal/localsocket"
	"github.com/egressd/egressd/internal/logfile"
	"github.com/egressd/egressd/internal/logpipe"
)

// Where a flow log may go beside files and collectors.
const (
	Stdout  = "/dev/stdout"
	Stderr  = "/dev/stderr"
	Journal = "journald"
	Syslog  = "syslog" // or Syslog + ":" + the path of a socket
)

// waiting is how many bytes of lines wait for whoever takes them, in each place.
const waiting = 4 << 20

// complainEvery bounds how often the log says that a place takes nothing.
const complainEvery = time.Minute

// Options configure a FlowLog.
type Options struct {
	// To are the places: files by their absolute paths, Stdout, Stderr, Journal, Syslog,
	// collectors of OTLP as http://, https:// or grpc://ADDRESS:PORT.
	To []string
	// A file that has Size bytes is rotated, and Kept old ones stay.
	Size int64
	Kept int
	// Service is the name under which a collector shows the lines.
	Service        string
	Stdout, Stderr io.Writer
	Log            *slog.Logger
}

// Check says what is wrong with options.
func (o *Options) Check() error {
	for i, to := range o.To {
		if slices.Contains(o.To[:i], to) {
			return fmt.Errorf("%q is named twice", to)
		}
		if err := check(to); err != nil {
			return err
		}
	}
	return nil
}

func check(to string) error {
	path, isSyslog := strings.CutPrefix(to, Syslog+":")
	switch {
	case to == Stdout, to == Stderr, to == Journal, to == Syslog:
	case isSyslog && filepath.IsAbs(path):
		return localsocket.CheckPath(path)
	case strings.Contains(to, "://"):
		_, err := collector.NewLogs(to, collector.RecordOptions{})
		return err
	case !filepath.IsAbs(to):
		return fmt.Errorf("%q is no absolute path of a file, %s, %s, %s, %s, %s:SOCKET or a collector as http://ADDRESS:PORT or grpc://ADDRESS:PORT", to, Stdout, Stderr, Journal, Syslog, Syslog)
	}
	return nil
}

// FlowLog is a flow.Sink. Use Open, and Close at the end; nil writes nothing.
type FlowLog struct {
	log    *slog.Logger
	places []*place
	lines  atomic.Uint64
	folded atomic.Uint64
	failed atomic.Uint64 // lines that a collector has not taken

	mu      sync.Mutex // guards what follows
	counted bool       // missing was set
	missing uint64     // events that nobody could record, as far as they were told
}

// place is where lines go.
type place struct {
	name string
	to   io.WriteCloser
	pipe *logpipe.Writer
	log  *slog.Logger
	said time.Time // of the goroutine of pipe alone
}

// Open opens the places; without any it is nil. What fails is a file that cannot be
// opened: all else may come later.
func Open(o Options) (*FlowLog, error) {
	if len(o.To) == 0 {
		return nil, nil
	}
	l := &FlowLog{log: o.Log}
	for _, to := range o.To {
		w, err := l.open(to, o)
		if err != nil {
			l.Close(0)
			return nil, fmt.Errorf("open the flow log: %w", err)
		}
		p := &place{name: to, to: w, log: o.Log}
		p.pipe = logpipe.New(p, waiting, func(n uint64) []byte { return flowrecord.Lost(n, time.Now()) })
		l.places = append(l.places, p)
	}
	return l, nil
}

func (l *FlowLog) open(to string, o Options) (io.WriteCloser, error) {
	path, isSyslog := strings.CutPrefix(to, Syslog+":")
	switch {
	case to == Stdout:
		return stream{o.Stdout}, nil
	case to == Stderr:
		return stream{o.Stderr}, nil
	case to == Journal:
		return newJournal(journalSocket), nil
	case to == Syslog:
		return newSyslog(syslogSocket), nil
	case isSyslog:
		return newSyslog(path), nil
	case strings.Contains(to, "://"):
		return newRecords(to, o.Service, &l.failed, o.Log)
	}
	return logfile.Open(to, o.Size, o.Kept)
}

// stream is a writer that somebody else closes.
type stream struct{ io.Writer }

func (stream) Close() error { return nil }

// Record implements flow.Sink.
func (l *FlowLog) Record(e *flow.Event) {
	if l == nil {
		return
	}
	line, err := flowrecord.Append(nil, *e)
	if err != nil {
		line = flowrecord.Lost(uint64(flowrecord.Times(e)), time.Now())
	}
	l.lines.Add(1)
	if e.Kind != flow.Lost {
		l.folded.Add(uint64(e.More))
	}
	for _, p := range l.places {
		_, _ = p.pipe.Write(line) // never fails
	}
}

// Missing tells how many events nobody could record, of a number that only grows. The
// first call says from where on it counts.
func (l *FlowLog) Missing(all uint64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counted && all > l.missing {
		l.Record(&flow.Event{Time: time.Now(), Kind: flow.Lost, More: int(all - l.missing)})
	}
	l.counted, l.missing = true, all
}

// Write passes a line to a place, and says now and then what failed.
func (p *place) Write(line []byte) (int, error) {
	n, err := p.to.Write(line)
	if err != nil {
		if now := time.Now(); now.Sub(p.said) >= complainEvery {
			p.said = now
			p.log.Warn("the flow log could not be written, and lines are lost; how many is told there when it can be. Traffic is not affected", "to", p.name, "error", err)
		}
	}
	return n, err
}

// Reopen opens files anew, after somebody has moved them away.
func (l *FlowLog) Reopen() {
	if l == nil {
		return
	}
	for _, p := range l.places {
		if f, ok := p.to.(*logfile.RotatedFile); ok {
			if err := f.Reopen(); err != nil {
				l.log.Error("the flow log could not be opened anew; lines go on to the file that was open", "file", p.name, "error", err)
			}
		}
	}
}

// Close writes what waits, for at most that long in each place, and nothing from then on.
func (l *FlowLog) Close(wait time.Duration) {
	if l == nil {
		return
	}
	for _, p := range l.places {
		p.pipe.Close(wait)
		if p.pipe.Idle() { // else the place holds a line, and is in use
			_ = p.to.Close() // every line was written on its own
		}
	}
}

// Stats are what was written.
type Stats struct {
	// Lines counts events, Folded the denials among them that have no line of their
	// own but are counted in another's (more), Dropped the lines that a place has lost.
	Lines, Folded, Dropped uint64
}

// Stats says what was written.
func (l *FlowLog) Stats() Stats {
	if l == nil {
		return Stats{}
	}
	s := Stats{Lines: l.lines.Load(), Folded: l.folded.Load(), Dropped: l.failed.Load()}
	for _, p := range l.places {
		s.Dropped += p.pipe.Dropped()
	}
	return s
}
