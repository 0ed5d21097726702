// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/securedir"
)

// learnedFile is where in the state directory learned addresses are.
const learnedFile = state.LearnedFile

// keepNames saves what was learned, unless that failed a moment ago.
func (a *Agent) keepNames() {
	if now := time.Now(); a.control.Unsaved.Due(control.SavedNames, now) {
		a.control.Unsaved.Note(a.log, control.SavedNames, a.saveNames(), now)
	}
}

// saveNames writes the file when something changed. It is called by one
// goroutine at a time: housekeep, and after it Close.
func (a *Agent) saveNames() error {
	if a.names == nil || !a.opts.Daemon || a.gone.Load() {
		return nil
	}
	changes := a.names.Changes()
	if changes == a.saved {
		return nil
	}
	data, err := json.Marshal(a.names.Dump())
	if err != nil {
		return err
	}
	err = securedir.Replace(filepath.Join(a.opts.StateDir, learnedFile), func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	a.saved = changes
	return nil
}

func (a *Agent) restoreNames() (int, error) {
	if !a.opts.Daemon {
		return 0, nil
	}
	data, err := securedir.ReadFile(filepath.Join(a.opts.StateDir, learnedFile))
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
	return a.names.Restore(saved)
}
