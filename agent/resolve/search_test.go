// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/flow"
)

// rooted starts a process whose root is dir and returns its id.
func rooted(t *testing.T, dir string) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: chroot(2)")
	}
	// The test binary itself is static and waits for its input to end.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = []string{waitForInput + "=" + dir}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = c.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the process with a root of its own did not start: %v", err)
	}
	return c.Process.Pid
}

// waitForInput in the environment is the root that the process changes to.
const waitForInput = "EGRESSD_TEST_ROOT"

func init() {
	dir := os.Getenv(waitForInput)
	if dir == "" {
		return
	}
	if err := syscall.Chroot(dir); err != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString("x")
	os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

func TestReadSearch(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(outside, "search outside.example\n")
	tests := []struct {
		name string
		make func(t *testing.T, etc string)
		want string
	}{
		{"a pod's", func(t *testing.T, etc string) {
			write(filepath.Join(etc, "resolv.conf"), "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n")
		}, "ns.svc.cluster.local svc.cluster.local cluster.local"},
		{"domain", func(t *testing.T, etc string) { write(filepath.Join(etc, "resolv.conf"), "domain corp.example\n") }, "corp.example"},
		{"none", func(*testing.T, string) {}, ""},
		{"link inside", func(t *testing.T, etc string) {
			write(filepath.Join(etc, "other"), "search inside.example\n")
			if err := os.Symlink("/etc/other", filepath.Join(etc, "resolv.conf")); err != nil {
				t.Fatal(err)
			}
		}, "inside.example"},
		{"link outside", func(t *testing.T, etc string) {
			if err := os.Symlink(outside, filepath.Join(etc, "resolv.conf")); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"fifo", func(t *testing.T, etc string) {
			if err := syscall.Mkfifo(filepath.Join(etc, "resolv.conf"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"directory", func(t *testing.T, etc string) {
			if err := os.Mkdir(filepath.Join(etc, "resolv.conf"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"endless", func(t *testing.T, etc string) {
			write(filepath.Join(etc, "resolv.conf"), strings.Repeat("# nothing\n", maxResolvConf/10+1)+"search late.example\n")
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
			tt.make(t, filepath.Join(root, "etc"))
			got, _ := readSearch(rooted(t, root))
			if strings.Join(got, " ") != tt.want {
				t.Errorf("search %q, want %q", got, tt.want)
			}
		})
	}
}

// TestSearches: a reading that hangs costs its workload the suffixes, and
// nobody else.
func TestSearches(t *testing.T) {
	s := NewSearches()
	var reads atomic.Int32
	hang := make(chan struct{})
	s.read = func(pid int) ([]string, error) {
		reads.Add(1)
		if pid == 13 {
			<-hang
		}
		return []string{"a.example"}, nil
	}
	of := func(workload string, pid int) []string {
		return s.Of(dnsproxy.Client{Workload: workload, Process: flow.Process{PID: pid}})
	}
	want := []string{"a.example"}
	for range 3 {
		if got := of("w", 7); !slices.Equal(got, want) || reads.Load() != 1 {
			t.Errorf("suffixes %q after %d readings", got, reads.Load())
		}
	}
	if got := of("w", 0); got != nil {
		t.Errorf("suffixes of nobody: %q", got)
	}
	if got := of("evil", 13); got != nil {
		t.Errorf("suffixes that nobody has read: %q", got)
	}
	if got := of("evil", 14); got != nil || reads.Load() != 2 {
		t.Errorf("while a reading hangs: %q, %d readings", got, reads.Load())
	}
	if got := of("w", 8); !slices.Equal(got, want) {
		t.Errorf("another workload meanwhile: %q", got)
	}
	close(hang)
	for deadline := time.Now().Add(5 * time.Second); !slices.Equal(of("evil", 13), want); {
		if time.Now().After(deadline) {
			t.Fatal("the suffixes never came")
		}
		time.Sleep(time.Millisecond)
	}
	for pid := range 2 * maxSearches {
		of("w", 100+pid)
	}
	if len(s.known) > maxSearches {
		t.Errorf("%d processes are remembered", len(s.known))
	}
}

// TestSearchesAtOnce: questions that come while the first is being read for, of the
// same process (A and AAAA) or of another one of its workload, have the suffixes.
func TestSearchesAtOnce(t *testing.T) {
	s := NewSearches()
	begun := make(chan struct{}, 2)
	s.read = func(int) ([]string, error) {
		begun <- struct{}{}
		time.Sleep(searchWait / 20) // a slow file; both questions are there meanwhile
		return []string{"a.example"}, nil
	}
	var asked sync.WaitGroup
	of := func(pid int) {
		if got := s.Of(dnsproxy.Client{Workload: "w", Process: flow.Process{PID: pid}}); !slices.Equal(got, []string{"a.example"}) {
			t.Errorf("process %d: suffixes %q", pid, got)
		}
	}
	asked.Go(func() { of(7) })
	<-begun
	asked.Go(func() { of(7) })
	asked.Go(func() { of(8) })
	asked.Wait()
	if len(begun) != 1 {
		t.Errorf("%d readings more, want one", len(begun))
	}
}
