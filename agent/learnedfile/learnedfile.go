// SPDX-License-Identifier: Apache-2.0

// Package learnedfile keeps what was learned for the next start, in a file.
package learnedfile

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/policy"
)

// Names are the learned addresses.
type Names interface {
	// Changes is a number that rises when Dump has something else.
	Changes() uint64
	Dump() []learned.Saved
	Restore([]learned.Saved, func(workload string) (policy.PolicyID, bool)) (int, error)
}

// Store is the file of learned addresses in a state directory. The nil Store keeps
// nothing.
type Store struct {
	path    string
	names   Names
	unsaved *control.Unsaved
	// saved is names.Changes as it was when the file was written.
	saved uint64
	gone  atomic.Bool
}

// New makes a Store in a state directory. unsaved is told of what cannot be saved.
func New(stateDir string, names Names, unsaved *control.Unsaved) *Store {
	return &Store{path: filepath.Join(stateDir, state.LearnedFile), names: names, unsaved: unsaved}
}

// Keep saves what was learned, unless that failed a moment ago.
func (f *Store) Keep(log *slog.Logger, now time.Time) {
	if f != nil && f.unsaved.Due(control.SavedNames, now) {
		f.unsaved.Note(log, control.SavedNames, f.Save(), now)
	}
}

// Save writes the file when something changed. One goroutine at a time may call Save
// and Keep.
func (f *Store) Save() error {
	if f == nil || f.gone.Load() {
		return nil
	}
	changes := f.names.Changes()
	if changes == f.saved {
		return nil
	}
	data, err := json.Marshal(f.names.Dump())
	if err != nil {
		return err
	}
	err = securedir.Replace(f.path, func(to *os.File) error {
		_, err := to.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	f.saved = changes
	return nil
}

// Restore learns what the file has for the policies that workloads have today, and says
// how many addresses these are.
func (f *Store) Restore(policyOf func(workload string) (policy.PolicyID, bool)) (int, error) {
	if f == nil {
		return 0, nil
	}
	data, err := securedir.ReadFile(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var saved []learned.Saved
	if err := json.Unmarshal(data, &saved); err != nil {
		return 0, err
	}
	return f.names.Restore(saved, policyOf)
}

// Release leaves the file to another daemon, for good.
func (f *Store) Release() {
	if f != nil {
		f.gone.Store(true)
	}
}
