// SPDX-License-Identifier: Apache-2.0

package job_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
)

// shell is an interactive shell on a terminal of its own.
type shell struct {
	*output
	keyboard *os.File
	cmd      *exec.Cmd
}

func startShell(t *testing.T) *shell {
	t.Helper()
	testenv.RequireTool(t, "bash")
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	s := &shell{keyboard: keyboard, cmd: exec.Command("bash", "--norc", "--noprofile", "-i")}
	s.cmd.Env = append(os.Environ(), "PS1=", "PS2=", "HISTFILE=", "TERM=dumb", "T="+self(t))
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = screen, screen, screen
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.output = collect(t, keyboard)
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // its terminal hangs up
		_ = s.cmd.Wait()
		keyboard.Close()
		<-s.ends
	})
	// Typed text is not to be mistaken for output.
	s.types("stty -echo; bind 'set enable-bracketed-paste off' 2>/dev/null; echo begin\n")
	s.until("prompt", func() bool { return s.count("begin") == 1 })
	return s
}

func (s *shell) types(text string) {
	s.t.Helper()
	if _, err := s.keyboard.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// stops types ^Z and waits until the shell has seen the job stop.
func (s *shell) stops() {
	s.t.Helper()
	before := strings.Count(s.String(), "Stopped")
	s.types("\x1a")
	s.until("stop", func() bool { return strings.Count(s.String(), "Stopped") > before })
}

// seen waits until the shell has said so many times that a job was stopped: it
// looks before it prompts.
func (s *shell) seen(times int) {
	s.t.Helper()
	for i := 0; strings.Count(s.String(), "Stopped") < times; i++ {
		s.prompt(fmt.Sprintf("look%d", i))
		if i > 1000 {
			s.t.Fatalf("the shell does not see the job stop:\n%s", s)
		}
	}
}

// prompt waits until the shell has the prompt again.
func (s *shell) prompt(word string) {
	s.t.Helper()
	s.types("echo " + word + " $?\n")
	s.until("prompt", func() bool { return strings.Contains(s.String(), "\n"+word+" ") })
}

// TestTerminal: ^C and ^\ reach the command once, and what is sent to the
// caller as well; ^Z stops both, fg and bg let them go on.
func TestTerminal(t *testing.T) {
	s := startShell(t)
	s.types("$T run $T tell input\n")
	command := s.pid()
	caller := parent(t, command)
	s.types("\x03")
	s.want("got SIGINT", 1)
	s.types("\x1c")
	s.want("got SIGQUIT", 1)
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1} {
		if err := unix.Kill(caller, sig); err != nil {
			t.Fatal(err)
		}
		s.want("got "+unix.SignalName(sig), 1)
	}
	if err := unix.Kill(caller, unix.SIGINT); err != nil { // to it alone
		t.Fatal(err)
	}
	s.want("got SIGINT", 2)
	if err := unix.IoctlSetWinsize(int(s.keyboard.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	s.want("got SIGWINCH", 1)
	s.types("before\n")
	s.want(`line "before"`, 1)

	s.stops()
	s.prompt("stopped")
	if a, b := state(t, caller), state(t, command); a != "T" || b != "T" {
		t.Errorf("after ^Z the caller is %s and the command %s, want T", a, b)
	}
	s.types("fg\n")
	s.want("got SIGCONT", 1)
	s.types("after\n")
	s.want(`line "after"`, 1)

	s.stops()
	s.prompt("again")
	s.types("bg\n")
	// It goes on, reads the terminal, which the shell has now, and stops again,
	// before or after it has said that it goes on.
	s.until("an end of the first stop", func() bool { return strings.Contains(s.String(), "[1]+ $T run") })
	s.until("a stop in the background", func() bool { return state(t, caller) == "T" && state(t, command) == "T" })
	s.seen(3)
	s.types("fg\n")
	s.types("at last\n")
	s.want(`line "at last"`, 1)
	s.types("\x03")
	s.want("got SIGINT", 3)
	s.types("\x04")
	s.want("done", 1)
	s.prompt("ended")
	s.want("ended 0", 1)
}

// TestPipeline: on a terminal that several processes share, each has ^C once,
// and the terminal stays theirs.
func TestPipeline(t *testing.T) {
	s := startShell(t)
	s.types("$T run $T tell | cat\n")
	command := s.pid()
	caller := parent(t, command)
	// cat has gone by ^C when its neighbours handle it.
	s.stops()
	s.prompt("stopped")
	s.until("a stop", func() bool { return state(t, caller) == "T" && state(t, command) == "T" })
	s.types("fg\n")
	s.want("got SIGCONT", 1)
	for i, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGUSR1} {
		if err := unix.Kill(caller, sig); err != nil {
			t.Fatal(err, i)
		}
		s.want("got "+unix.SignalName(sig), 1)
	}
	if err := unix.Kill(caller, unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	s.want("done", 1)
	s.prompt("ended")

	s.types("cat | $T run $T tell\n")
	s.until("a second one", func() bool { return strings.Count(s.String(), "ready ") == 2 })
	s.types("\x03")
	s.want("got SIGINT", 1)
	_, after, _ := strings.Cut(s.String()[strings.LastIndex(s.String(), "ready "):], " ")
	var pid int
	if _, err := fmt.Sscan(after, &pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(parent(t, pid), unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	s.want("done", 2)
	s.prompt("over")
	s.want("over 7", 1)
}

// TestBackground: a job that was begun in the background has the terminal when
// it is brought to the foreground.
func TestBackground(t *testing.T) {
	s := startShell(t)
	s.types("$T run $T tell input &\n")
	command := s.pid()
	caller := parent(t, command)
	s.until("a stop by its reading", func() bool { return state(t, caller) == "T" })
	s.seen(1)
	s.types("fg\n")
	s.types("hello\n")
	s.want(`line "hello"`, 1)
	s.types("\x03")
	s.want("got SIGINT", 1)
	s.types("\x04")
	s.want("done", 1)
	s.prompt("ended")
	s.want("ended 0", 1)
}

// fields are those of proc_pid_stat(5) from the state on.
func fields(t *testing.T, pid int) []string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}

func state(t *testing.T, pid int) string { return fields(t, pid)[0] }

func parent(t *testing.T, pid int) int {
	t.Helper()
	var ppid int
	if _, err := fmt.Sscan(fields(t, pid)[1], &ppid); err != nil {
		t.Fatal(err)
	}
	return ppid
}
