// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/dnsproxy"
)

const (
	// searchAge is how long the suffixes of a process are believed.
	searchAge = 5 * time.Second
	// searchWait bounds how long a query waits for them. The file may be on a
	// file system of the workload's own (FUSE), which answers when it likes.
	searchWait = 100 * time.Millisecond
	// maxSearches bounds the processes whose suffixes are remembered,
	// maxReaders the readings under way; a workload has one of these.
	maxSearches = 1024
	maxReaders  = 16
	// maxResolvConf is how much is read of a resolv.conf, in bytes.
	maxResolvConf = 16 << 10
)

// Searches knows the search suffixes of processes that have a resolv.conf of
// their own, as those of a container have. A workload may write there what it
// likes: it is only used to tell search steps from other denied names.
type Searches struct {
	// read reads the suffixes of a process.
	read func(pid int) ([]string, error)

	mu      sync.Mutex
	known   map[int]knownSearch      // by process
	readers map[string]chan struct{} // by workload; closed when it has read
}

type knownSearch struct {
	until    time.Time
	suffixes []string
}

// NewSearches knows nothing yet.
func NewSearches() *Searches {
	return &Searches{read: readSearch, known: map[int]knownSearch{}, readers: map[string]chan struct{}{}}
}

// Of returns the suffixes of the process that asks; none when they can't be
// known in time.
func (s *Searches) Of(c dnsproxy.Client) []string {
	pid := c.Process.PID
	if pid <= 0 {
		return nil // it came by an interface
	}
	late := time.NewTimer(searchWait)
	defer late.Stop()
	for {
		suffixes, reading, known := s.ask(pid, c.Workload)
		if known || reading == nil {
			return suffixes
		}
		// A program that asks for both families at once waits twice for the same.
		select {
		case <-reading:
		case <-late.C:
			return nil
		}
	}
}

// ask returns what is known of a process, or the end of its workload's reading that
// is under way, which it begins if there is none. Both are missing when too many are.
func (s *Searches) ask(pid int, workload string) (suffixes []string, reading <-chan struct{}, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.known[pid]; ok && time.Now().Before(k.until) {
		return k.suffixes, nil, true
	}
	if r := s.readers[workload]; r != nil {
		return nil, r, false
	}
	if len(s.readers) >= maxReaders {
		return nil, nil, false
	}
	end := make(chan struct{})
	s.readers[workload] = end
	go s.learn(pid, workload, end)
	return nil, end, false
}

// learn reads and remembers the suffixes of a process, and closes end.
func (s *Searches) learn(pid int, workload string, end chan struct{}) {
	suffixes, _ := s.read(pid) // the process may be gone
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(end)
	delete(s.readers, workload)
	if len(s.known) >= maxSearches {
		clear(s.known)
	}
	s.known[pid] = knownSearch{time.Now().Add(searchAge), suffixes}
}

// readSearch reads the search suffixes from the resolv.conf that a process
// sees. Links in it lead nowhere but below its own root, and only an ordinary
// file is opened.
func readSearch(pid int) ([]string, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	path, err := unix.Openat2(root, "etc/resolv.conf", &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(path)
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("resolv.conf is no ordinary file")
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return dnsproxy.ReadSearch(io.LimitReader(f, maxResolvConf))
}
