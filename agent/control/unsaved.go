// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"log/slog"
	"maps"
	"sync"
	"syscall"
	"time"
)

// What is saved for the next start, by the names of the files: the learned
// addresses, and the last good policy.
const (
	SavedNames  = "learned.json"
	SavedPolicy = "last-good.json"
)

// notSaved is what it means when a file cannot be written.
var notSaved = map[string]string{
	SavedNames: "learned addresses could not be saved; after a restart of egressd, programs are refused until they resolve their names again; " +
		"check that the state directory exists and has room; egressd tries again",
	SavedPolicy: "the policy in force could not be saved; a start with a broken configuration would take the policy that was saved before, and fail if there is none; " +
		"check that its directory exists and has room; egressd tries again",
}

// saveAgain is how long after a failure to save the next attempt is made.
const saveAgain = 10 * time.Second

// Unsaved knows what could not be saved. Its zero value is empty.
type Unsaved struct {
	mu     sync.Mutex
	errs   map[string]error
	failed map[string]time.Time
}

// Note notes how an attempt to save a file ended, and logs what has changed.
func (u *Unsaved) Note(log *slog.Logger, file string, err error, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.errs[file]
	if err == nil {
		delete(u.errs, file)
		delete(u.failed, file)
		if was != nil {
			log.Info("saved again", "file", file)
		}
		return
	}
	if u.errs == nil {
		u.errs, u.failed = map[string]error{}, map[string]time.Time{}
	}
	u.errs[file], u.failed[file] = err, now
	if was == nil || !SameCause(was, err) {
		log.Warn(notSaved[file], "error", err)
	}
}

// SameCause says whether two errors have the same cause; their texts may name
// temporary files.
func SameCause(x, y error) bool {
	var a, b syscall.Errno
	if errors.As(x, &a) && errors.As(y, &b) {
		return a == b
	}
	return x.Error() == y.Error()
}

// Due says whether an attempt to save a file is due: one that failed is not
// repeated at once.
func (u *Unsaved) Due(file string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	at, failed := u.failed[file]
	return !failed || now.Sub(at) >= saveAgain
}

// all are the errors by file.
func (u *Unsaved) all() map[string]error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.errs)
}

// Texts are the errors as the status has them.
func (u *Unsaved) Texts() map[string]string {
	out := map[string]string{}
	for file, err := range u.all() {
		out[file] = err.Error()
	}
	return out
}
