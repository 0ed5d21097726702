// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/egressd/egressd/explain/learn"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy/istio"
)

// lesson is the file of exec --learn, and what the command did.
type lesson struct {
	e    env
	file *os.File
	seen *learn.Recording // nil: the command was not started
}

// openLesson opens the file before the command runs, which could put a link in its
// place; nil: nothing is learned.
func openLesson(e env, path string) (*lesson, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--learn: %w", err)
	}
	return &lesson{e: e, file: f}, nil
}

func (l *lesson) close() {
	if l != nil {
		l.file.Close() // what was written is flushed by nobody else
	}
}

// take notes what the command did.
func (l *lesson) take(r learn.Recording) { l.seen = &r }

// write puts the policy into the file.
func (l *lesson) write(quiet bool) error {
	if l == nil || l.seen == nil {
		return nil
	}
	learner := learn.New(time.Time{}, "")
	if err := learner.AddRecording(*l.seen); err != nil {
		return err
	}
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("--learn: %w", err)
	}
	if !info.Mode().IsRegular() { // /dev/stdout, a pipe
		text, err := learner.Propose(learn.Options{Identities: l.seen.Workloads}).YAML()
		if err == nil {
			_, err = l.file.WriteString(quote.Lines(text))
		}
		return err
	}
	old, err := io.ReadAll(l.file)
	if err != nil {
		return fmt.Errorf("--learn: %w", err)
	}
	m, err := newMerge(l.e, l.file.Name(), []istio.File{{Name: l.file.Name(), Data: old}}, istio.Options{}, l.seen.Workloads)
	if err != nil {
		return fmt.Errorf("--learn: %s is left as it is: %w", l.file.Name(), err)
	}
	// What the file has is what was read through the descriptor.
	m.old, m.text = string(old), string(old)
	p, err := m.add(learner, learn.Options{Identities: m.identities, Adds: len(old) > 0})
	if err != nil {
		return fmt.Errorf("--learn: %w", err)
	}
	if p.Empty() {
		return nil
	}
	if err := overwrite(l.file, []byte(quote.Lines(m.text))); err != nil {
		return fmt.Errorf("--learn: %w", err)
	}
	if !quiet {
		for _, n := range p.Notes {
			printLine(l.e.stderr, "egressd: %s", n)
		}
		printLine(l.e.stderr, "egressd: %s has the policy that allows what the command did; read it, and run the command with --config %s", l.file.Name(), l.file.Name())
	}
	return nil
}
