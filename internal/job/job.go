// SPDX-License-Identifier: Apache-2.0

// Package job runs a command in the place of its caller, as a shell's job:
// each signal reaches the command exactly once, whoever sent it and to whom,
// and the command stops, goes on and has the terminal as it would without the
// caller.
//
// The command has a process group of its own, so that what is sent to the
// caller's group does not reach it by itself; the caller forwards it. On a
// terminal that group is put in the foreground, and the terminal signals it
// alone. Only where the caller shares its group with others (a pipeline, a
// script) on a terminal, the command stays in that group, since the terminal
// belongs to all of them: the terminal's signals reach it there and are not
// forwarded.
package job

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// signals are those that are meant for the command. Who catches SIGTSTP does
// not stop by it: the caller stops when the command has.
var signals = []syscall.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGWINCH, unix.SIGTSTP, unix.SIGCONT,
}

// ending are those that end a program which does nothing about them.
var ending = []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM}

// Signals catches the signals of this process from Catch to Stop.
type Signals struct{ caught chan os.Signal }

// Catch begins to catch signals. What was ignored (nohup) stays so, for the
// command as well.
func Catch() *Signals {
	s := &Signals{make(chan os.Signal, 64)}
	for _, sig := range signals {
		if !signal.Ignored(sig) {
			signal.Notify(s.caught, sig)
		}
	}
	return s
}

// Stop ends Catch.
func (s *Signals) Stop() { signal.Stop(s.caught) }

// Ended says whether a signal came that ends a program, before there was a
// command to send it to. It takes out what was caught.
func (s *Signals) Ended() (syscall.Signal, bool) {
	for {
		select {
		case caught := <-s.caught:
			if sig, ok := caught.(syscall.Signal); ok && slices.Contains(ending, sig) {
				return sig, true
			}
		default:
			return 0, false
		}
	}
}

// Run starts the command by start, which calls c.Start, and waits for its end.
// It returns the exit code; 128+n when signal n ended the command. The error
// is that of start, or of waiting.
func (s *Signals) Run(c *exec.Cmd, start func() error) (code int, err error) {
	t := openTerminal()
	defer t.close()
	own := t == nil || !t.shared
	if own {
		if c.SysProcAttr == nil {
			c.SysProcAttr = &syscall.SysProcAttr{}
		}
		c.SysProcAttr.Setpgid = true
	}
	if err := start(); err != nil {
		return 0, err
	}
	j := &job{process: c.Process, own: own, terminal: t}
	if own {
		t.hand(t.ownGroup(), c.Process.Pid)
		defer t.hand(c.Process.Pid, t.ownGroup())
	}
	done := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case caught := <-s.caught:
				if sig, ok := caught.(syscall.Signal); ok {
					j.forward(sig)
				}
			case <-done:
				return
			}
		}
	}()
	j.follow()
	err = c.Wait()
	close(done)
	<-forwarded
	exit := (*exec.ExitError)(nil)
	if errors.As(err, &exit) {
		err = nil
	}
	if err != nil {
		return 0, err
	}
	if ws, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return c.ProcessState.ExitCode(), nil
}

// job is a command that runs.
type job struct {
	process  *os.Process
	own      bool // it has a process group of its own
	terminal *terminal
}

// forward sends the command what was sent to this process, unless it got it.
func (j *job) forward(sig syscall.Signal) {
	t := j.terminal
	switch {
	case j.own && sig == unix.SIGCONT:
		// All of the group was stopped, by the terminal.
		t.hand(t.ownGroup(), j.process.Pid)
		j.resume()
		return
	case j.own:
	case sig == unix.SIGINT || sig == unix.SIGQUIT:
		if t.foreground() == t.group {
			return // by the terminal, to all of the group
		}
	case sig == unix.SIGTERM || sig == unix.SIGUSR1 || sig == unix.SIGUSR2:
	default:
		return // terminals and shells send these to groups
	}
	_ = j.process.Signal(sig) // it has ended
}

// follow waits until the command has ended, and stops this process whenever
// the command stops, so that the shell has its terminal back.
func (j *job) follow() {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, j.process.Pid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || info.Code != cldStopped {
			return
		}
		// Seen once; WNOWAIT left it there for the next look.
		_ = unix.Waitid(unix.P_PID, j.process.Pid, &info, unix.WSTOPPED|unix.WNOHANG, nil)
		j.stopped(status(&info))
	}
}

func (j *job) stopped(by syscall.Signal) {
	t := j.terminal
	if t == nil {
		return // who stopped it will let it go on, without telling this process
	}
	if j.own && (by == unix.SIGTTIN || by == unix.SIGTTOU) && t.foreground() == t.group {
		// It wants the terminal, which this process has: "fg" gave it.
		t.hand(t.group, j.process.Pid)
		j.resume()
		return
	}
	if orphaned() {
		// Nobody would let this process go on. The kernel does not let a
		// terminal stop such a group either.
		j.resume()
		return
	}
	_ = unix.Kill(os.Getpid(), unix.SIGSTOP) // forward does what is left, with the SIGCONT
}

// resume lets the command go on, with all that was stopped with it.
func (j *job) resume() {
	pid := j.process.Pid
	if j.own {
		pid = -pid
	}
	_ = unix.Kill(pid, unix.SIGCONT) // none of it is left
}

// orphaned says whether no shell looks after the process group: the parent is
// of another session or of the same group.
func orphaned() bool {
	parent := os.Getppid()
	theirs, err1 := unix.Getsid(parent)
	ours, err2 := unix.Getsid(0)
	group, err3 := unix.Getpgid(parent)
	if err1 != nil || err2 != nil || err3 != nil || theirs != ours {
		return true
	}
	// A parent in the group is looked after by its own parent, if by anybody:
	// a script's shell.
	return group == unix.Getpgrp() && parent == theirs
}

// Of siginfo_t for SIGCHLD (sigaction(2)).
const cldStopped = 5

// status is si_status. The fields before it are si_signo, si_errno, si_code,
// padding on 64-bit machines, si_pid and si_uid.
func status(info *unix.Siginfo) syscall.Signal {
	type child struct {
		signo, errno, code int32
		_                  [unsafe.Sizeof(uintptr(0)) - 4]byte
		pid, uid, status   int32
	}
	return syscall.Signal((*child)(unsafe.Pointer(info)).status)
}

// withBlocked calls f in a thread that has a signal blocked.
func withBlocked(sig syscall.Signal, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, before unix.Sigset_t
	bits := 8 * int(unsafe.Sizeof(set.Val[0]))
	set.Val[(int(sig)-1)/bits] |= 1 << (uint(int(sig)-1) % uint(bits))
	if unix.PthreadSigmask(unix.SIG_BLOCK, &set, &before) != nil {
		return
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	f()
}
