// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"cmp"
	"io"
	"sync"
	"sync/atomic"

	"github.com/egressd/egressd/internal/accesslog"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/policy"
)

// lineCollectors are those of OTLP that lines of the access log go to, by their URLs. Its
// fields belong to the lock of the Audience.
type lineCollectors struct {
	by     map[string]*accesslog.OTLPWriter
	ending sync.WaitGroup
	failed atomic.Uint64 // of those that have ended
}

// config is what the log does; nil: nothing. What the command line says of a place or of
// a format counts for all providers, and has one line of what any of them has.
func (w *Audience) config(mesh policy.MeshTelemetry, d telemetry.Defaults) (*accesslog.Config, error) {
	a := w.o.Access
	if a.To == Off {
		return nil, nil
	}
	c := &accesslog.Config{Percent: a.Percent, Verdicts: a.Verdicts}
	b := w.rules
	if a.To != "" {
		o, err := w.output(policy.LogProvider{}, mesh)
		if c.Outputs = []accesslog.Output{o}; b != nil {
			c.Wants = func(_ string, o *flow.Observation) bool { return b.Rules(telemetry.Of(o)).Logged(o) }
		}
		return c, err
	}
	if b != nil {
		c.Wants = func(name string, o *flow.Observation) bool { return b.Rules(telemetry.Of(o)).LoggedBy(name, o) }
	}
	for _, name := range b.Logs(d) {
		p := policy.LogProvider{Name: name}
		for _, known := range mesh.LogProviders {
			if known.Name == name {
				p = known
			}
		}
		o, err := w.output(p, mesh)
		if err != nil {
			return nil, err
		}
		c.Outputs = append(c.Outputs, o)
	}
	if len(c.Outputs) == 0 {
		return nil, nil
	}
	return c, nil
}

// output is where the lines of a provider go, and how they look.
func (w *Audience) output(p policy.LogProvider, mesh policy.MeshTelemetry) (accesslog.Output, error) {
	o := accesslog.Output{Name: p.Name}
	var err error
	if o.To, err = w.place(cmp.Or(w.o.Access.To, p.OTLP, p.File, mesh.AccessLogFile, Stdout)); err != nil { // the last is Istio's own
		return o, err
	}
	format, encoding := w.o.Access.Format, w.o.Access.Encoding
	if format == "" && encoding == "" {
		format, encoding = p.Format, p.Encoding
	}
	if format == "" && encoding == "" {
		format, encoding = mesh.AccessLogFormat, mesh.AccessLogEncoding
	}
	o.Format, err = accesslog.ParseFormat(format, encoding)
	if err == nil && p.OmitEmpty {
		o.Format = o.Format.OmitEmpty()
	}
	return o, err
}

// place opens where lines go.
func (w *Audience) place(to string) (io.Writer, error) {
	switch {
	case to == Stdout:
		return w.o.Stdout, nil
	case to == Stderr:
		return w.o.Stderr, nil
	case !accesslog.IsCollector(to):
		return w.file, nil
	}
	if c := w.lines.by[to]; c != nil {
		return c, nil
	}
	c, err := accesslog.NewOTLP(to, w.o.Access.Service, w.o.Log)
	if err != nil {
		return nil, err
	}
	w.lines.by[to] = c
	return c, nil
}

// untaken is how many lines no collector took.
func (w *Audience) untaken() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.lines.failed.Load()
	for _, c := range w.lines.by {
		n += c.Failed()
	}
	return n
}

// keep ends the collectors that nothing of c goes to any more. What waits for them is
// sent.
func (l *lineCollectors) keep(c *accesslog.Config, from *accesslog.AccessLog) {
	used := map[io.Writer]bool{}
	if c != nil {
		for _, o := range c.Outputs {
			used[o.To] = true
		}
	}
	for url, one := range l.by {
		if used[one] {
			continue
		}
		delete(l.by, url)
		l.ending.Go(func() {
			from.Forget(one, closeWait)
			l.end(one)
		})
	}
}

// end sends what waits, and ends a collector.
func (l *lineCollectors) end(one *accesslog.OTLPWriter) {
	_ = one.Close() // what could not be sent is counted
	l.failed.Add(one.Failed())
}

// close ends all of them.
func (l *lineCollectors) close() {
	for url, one := range l.by {
		delete(l.by, url)
		l.end(one)
	}
	l.ending.Wait()
}
