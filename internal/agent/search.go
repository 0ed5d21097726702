// SPDX-License-Identifier: Apache-2.0

package agent

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

// searches knows the search suffixes of processes that have a resolv.conf of
// their own, as those of a container have. A workload may write there what it
// likes: it is only used to tell search steps from other denied names.
type searches struct {
	// read reads the suffixes of a process.
	read func(pid int) ([]string, error)

	mu      sync.Mutex
	known   map[int]knownSearch // by process
	readers map[string]bool     // by workload
}

type knownSearch struct {
	until    time.Time
	suffixes []string
}

func newSearches() *searches {
	return &searches{read: readSearch, known: map[int]knownSearch{}, readers: map[string]bool{}}
}

// of returns the suffixes of the process that asks; none when they can't be
// known in time.
func (s *searches) of(c dnsproxy.Client) []string {
	pid := c.Process.PID
	if pid <= 0 {
		return nil // it came by an interface
	}
	s.mu.Lock()
	if k, ok := s.known[pid]; ok && time.Now().Before(k.until) {
		s.mu.Unlock()
		return k.suffixes
	}
	if s.readers[c.Workload] || len(s.readers) >= maxReaders {
		s.mu.Unlock()
		return nil
	}
	s.readers[c.Workload] = true
	s.mu.Unlock()
	done := make(chan []string, 1)
	go func() { done <- s.learn(pid, c.Workload) }()
	late := time.NewTimer(searchWait)
	defer late.Stop()
	select {
	case suffixes := <-done:
		return suffixes
	case <-late.C:
		return nil
	}
}

// learn reads and remembers the suffixes of a process.
func (s *searches) learn(pid int, workload string) []string {
	suffixes, _ := s.read(pid) // the process may be gone
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.readers, workload)
	if len(s.known) >= maxSearches {
		clear(s.known)
	}
	s.known[pid] = knownSearch{time.Now().Add(searchAge), suffixes}
	return suffixes
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
