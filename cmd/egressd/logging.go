// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/internal/journallog"
	"github.com/egressd/egressd/internal/loglevel"
	"github.com/egressd/egressd/internal/logpipe"
)

// Bounds of the log.
const (
	// logBuffer is how many bytes of the log wait for whoever reads it.
	logBuffer = 1 << 20
	// logWait is how long an end waits for that.
	logWait = time.Second
)

// logging is the log of a command that must go on when nobody reads it.
type logging struct {
	pipe *logpipe.Writer
	stop func()
}

// startLogging puts a pipe before standard error: what is written to e.stderr
// afterwards waits for nobody. The caller must call close.
func (f *policyFlags) startLogging(e *env) *logging {
	f.journal = e.journal
	// Whoever reads the log may go away.
	l := &logging{stop: outlive(syscall.SIGPIPE)}
	l.pipe = logpipe.New(e.stderr, logBuffer, f.lost)
	e.stderr = l.pipe
	log.SetOutput(l.pipe) // of libraries
	return l
}

// close ends the log; what waits has a moment to be read.
func (l *logging) close() {
	log.SetOutput(os.Stderr)
	l.pipe.Close(logWait)
	l.stop()
}

// lost is the line that says how many were lost.
func (f *policyFlags) lost(n uint64) []byte {
	var line bytes.Buffer
	if h, err := f.handler(&line, slog.LevelWarn); err == nil {
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log are missing here: whoever reads it did not, or was gone; traffic did not wait", 0)
		r.AddAttrs(slog.Uint64("lost", n))
		_ = h.Handle(context.Background(), r) // a buffer takes everything
	}
	return line.Bytes()
}

// handler formats the log.
func (f *policyFlags) handler(w io.Writer, level slog.Level) (slog.Handler, error) {
	ho := &slog.HandlerOptions{Level: level}
	switch {
	case f.logFormat == "auto" && f.journal:
		return journallog.New(w, level), nil
	case f.logFormat == "auto", f.logFormat == "text":
		return slog.NewTextHandler(w, ho), nil
	case f.logFormat == "json":
		return slog.NewJSONHandler(w, ho), nil
	}
	return nil, usageError{fmt.Errorf("--log-format is auto, text or json, not %q", f.logFormat)}
}

func (f *policyFlags) logger(e env) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level is debug, info, warn or error, not %q", f.logLevel)}
	}
	h, err := f.handler(e.stderr, level)
	if err != nil {
		return nil, err
	}
	return slog.New(h), nil
}

// levels makes the log of a daemon, whose levels change while it runs.
func (f *policyFlags) levels(e env) (*slog.Logger, *loglevel.Levels, error) {
	level, err := loglevel.Parse(f.logLevel)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("--log-level: %w", err)}
	}
	h, err := f.handler(e.stderr, slog.LevelDebug)
	if err != nil {
		return nil, nil, err
	}
	l := loglevel.New(level, agent.Scopes()...)
	return l.Logger(h), l, nil
}

// complain writes why a command failed. A daemon must end although nobody reads it.
func complain(e env, failed *cobra.Command, text string) {
	if failed.Name() == runName {
		defer outlive(syscall.SIGPIPE)()
		p := logpipe.New(e.stderr, logBuffer, nil)
		defer p.Close(logWait)
		e.stderr = p
	}
	e.fail(text)
}

// fail writes lines that say why a command failed.
func (e env) fail(text string) {
	if e.journal {
		text = journallog.Error(text)
	}
	fmt.Fprint(e.stderr, text)
}
