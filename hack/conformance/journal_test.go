// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// journal is what a machine printed, with when.
type journal struct {
	mu   sync.Mutex
	copy *os.File // for who looks at it later; nil: nobody
	text []byte
	at   []mark
}

// mark says when what begins at an offset was printed.
type mark struct {
	when   time.Time
	offset int
}

// newJournal makes one, whose copy is in the folder EGRESSD_CONFORMANCE_LOGS.
func newJournal(name string) (*journal, error) {
	dir := os.Getenv("EGRESSD_CONFORMANCE_LOGS")
	if dir == "" {
		return &journal{}, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, name+".log"))
	return &journal{copy: f}, err
}

// Write implements io.Writer.
func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.at = append(j.at, mark{time.Now(), len(j.text)})
	j.text = append(j.text, b...)
	if j.copy == nil {
		return len(b), nil
	}
	return j.copy.Write(b)
}

// ServeHTTP is a kubelet's answer for a container's log.
func (j *journal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	since, _ := time.Parse(time.RFC3339, r.URL.Query().Get("sinceTime")) // zero: from the beginning
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, m := range j.at {
		if !m.when.Before(since) {
			_, _ = w.Write(j.text[m.offset:]) // who asks may have left
			return
		}
	}
}

// last is the end of what was written.
func (j *journal) last() string {
	const most = 2000
	j.mu.Lock()
	defer j.mu.Unlock()
	return string(j.text[max(0, len(j.text)-most):])
}

func (j *journal) close() {
	if j.copy != nil {
		_ = j.copy.Close()
	}
}
