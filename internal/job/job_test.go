// SPDX-License-Identifier: Apache-2.0

package job_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/job"
	"github.com/egressd/egressd/internal/testenv"
)

// TestMain makes the test program the caller of a command ("run"), and the
// command ("tell"), as well.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		s := job.Catch()
		c := exec.Command(os.Args[2], os.Args[3:]...)
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		code, err := s.Run(c, c.Start)
		if err != nil {
			fmt.Println(err)
			code = 125
		}
		os.Exit(code)
	}
	if len(os.Args) > 1 && os.Args[1] == "tell" {
		tell()
	}
	os.Exit(testenv.Main(m))
}

// tell prints each signal that comes, each line of input, and "done" at SIGUSR2
// or the end of the input. What was ignored stays so; SIGTSTP stops it.
func tell() {
	signals := make(chan os.Signal, 64)
	for _, s := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCONT} {
		if signal.Ignored(s) {
			fmt.Println("ignored", unix.SignalName(s))
		} else {
			signal.Notify(signals, s)
		}
	}
	lines := make(chan string)
	if len(os.Args) > 2 {
		go func() {
			in := bufio.NewScanner(os.Stdin)
			for in.Scan() {
				lines <- in.Text()
			}
			close(lines)
		}()
	}
	fmt.Println("ready", os.Getpid())
	for {
		select {
		case s := <-signals:
			if s == unix.SIGUSR2 {
				fmt.Println("done")
				os.Exit(7)
			}
			fmt.Println("got", unix.SignalName(s.(syscall.Signal)))
		case line, ok := <-lines:
			if !ok {
				fmt.Println("done")
				os.Exit(0)
			}
			fmt.Printf("line %q\n", line)
		}
	}
}

// output collects what a process prints.
type output struct {
	t    *testing.T
	mu   sync.Mutex
	text strings.Builder
	ends chan struct{}
}

func collect(t *testing.T, r io.Reader) *output {
	o := &output{t: t, ends: make(chan struct{})}
	go func() {
		defer close(o.ends)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			o.mu.Lock()
			o.text.Write(buf[:n])
			o.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return o
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.ReplaceAll(o.text.String(), "\r", "")
}

// count is how often a line was printed.
func (o *output) count(line string) int { return strings.Count("\n"+o.String(), "\n"+line+"\n") }

// want waits until a line was printed so many times.
func (o *output) want(line string, times int) {
	o.t.Helper()
	o.until(fmt.Sprintf("%q %d times", line, times), func() bool { return o.count(line) >= times })
	if n := o.count(line); n != times {
		o.t.Errorf("%q came %d times, want %d", line, n, times)
	}
}

func (o *output) until(what string, done func() bool) {
	o.t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			o.t.Fatalf("no %s in:\n%s", what, o)
		}
	}
}

// pid is that of the command, which says it when it is ready.
func (o *output) pid() int {
	o.t.Helper()
	pid := 0
	o.until("ready", func() bool {
		_, after, ok := strings.Cut(o.String(), "ready ")
		number, _, whole := strings.Cut(after, "\n")
		if ok && whole {
			pid, _ = strconv.Atoi(number) // 0 goes on
		}
		return pid != 0
	})
	return pid
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWithoutTerminal: what is sent to the caller alone and what is sent to its
// process group reach the command once.
func TestWithoutTerminal(t *testing.T) {
	for _, group := range []bool{false, true} {
		c := exec.Command(self(t), "run", self(t), "tell")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal
		r, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		o := collect(t, r)
		o.pid()
		to := c.Process.Pid
		if group {
			to = -to
		}
		for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGWINCH, unix.SIGCONT} {
			if err := unix.Kill(to, s); err != nil {
				t.Fatal(err)
			}
			o.want("got "+unix.SignalName(s), 1)
		}
		if err := unix.Kill(to, unix.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		<-o.ends
		_ = c.Wait() // an exit code is no error here
		if code := c.ProcessState.ExitCode(); code != 7 || strings.Count(o.String(), "got ") != 7 || o.count("done") != 1 {
			t.Errorf("group %t: exit code %d:\n%s", group, code, o)
		}
	}
}

// TestIgnored: what is ignored stays so for the command.
func TestIgnored(t *testing.T) {
	c := exec.Command("sh", "-c", `trap "" HUP INT; exec "$0" run "$0" tell`, self(t))
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	r, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	o := collect(t, r)
	o.pid()
	for _, s := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGUSR2} {
		if err := unix.Kill(c.Process.Pid, s); err != nil {
			t.Fatal(err)
		}
		if s == unix.SIGTERM {
			o.want("got SIGTERM", 1)
		}
	}
	<-o.ends
	_ = c.Wait() // an exit code is no error here
	if o.count("ignored SIGHUP") != 1 || o.count("ignored SIGINT") != 1 || strings.Count(o.String(), "got ") != 1 || c.ProcessState.ExitCode() != 7 {
		t.Errorf("exit code %d:\n%s", c.ProcessState.ExitCode(), o)
	}
}

// TestExitCodes: the command's own, or 128 and the signal.
func TestExitCodes(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -TERM $$": 143, "kill -KILL $$": 137} {
		s := job.Catch()
		c := exec.Command("sh", "-c", script)
		if code, err := s.Run(c, c.Start); code != want || err != nil {
			t.Errorf("%s: %d, %v", script, code, err)
		}
		s.Stop()
	}
	s := job.Catch()
	defer s.Stop()
	c := exec.Command("/no/such/command")
	if _, err := s.Run(c, c.Start); err == nil {
		t.Error("a command that is not there ran")
	}
}

// TestEnded: what ends a program ends it before there is a command, too.
func TestEnded(t *testing.T) {
	s := job.Catch()
	defer s.Stop()
	if sig, ok := s.Ended(); ok {
		t.Errorf("nothing was sent: %v", sig)
	}
	for _, sig := range []syscall.Signal{unix.SIGWINCH, unix.SIGTERM} {
		if err := unix.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if sig, ok := s.Ended(); ok {
			if sig != unix.SIGTERM {
				t.Errorf("ended by %v", sig)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal("SIGTERM was lost")
		}
	}
}
