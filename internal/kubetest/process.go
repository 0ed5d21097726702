// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopWait bounds how long a process may take to be stopped.
const stopWait = 10 * time.Second

// process is a program that ends when this one does.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of its end; read it after done
}

// start runs a program in a process group of its own; what it prints is added
// to the file log.
func start(log, path string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the process has its own descriptor
	p := &process{name: filepath.Base(path), log: log, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig comes with the end of the thread that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// ended says whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process with all that is in its group, and waits for it. One
// that was never started, or has ended, is fine.
func (p *process) kill() {
	if p == nil {
		return
	}
	if !p.ended() {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) // it has just ended
	}
	<-p.done
}

// pause stops the process until resume is called.
func (p *process) pause() (resume func(), err error) {
	pid := p.cmd.Process.Pid
	if err := unix.Kill(-pid, unix.SIGSTOP); err != nil {
		return nil, err
	}
	// It goes on until one of its threads has taken the signal.
	for deadline := time.Now().Add(stopWait); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil && bytes.Contains(status, []byte("\nState:\tT")) {
			return func() { _ = unix.Kill(-pid, unix.SIGCONT) }, nil
		}
		if err != nil || time.Now().After(deadline) {
			return nil, fmt.Errorf("%s did not stop: %w", p.name, errors.Join(err, unix.Kill(-pid, unix.SIGCONT)))
		}
	}
}

// tail is the end of what the process printed.
func (p *process) tail() string {
	const lines = 30
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := bytes.SplitAfter(text, []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], nil))
}

// Ports of servers are below those that the kernel gives to clients, which
// would take them while a server is away.
const (
	firstPort = 20000
	lastPort  = 31999
)

// freePorts finds n TCP ports of loopback that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for deadline := time.Now().Add(5 * time.Second); len(ports) < n; {
		if time.Now().After(deadline) {
			return nil, errors.New("no free ports were found")
		}
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		ln, err := net.Listen("tcp", addr(port))
		if err != nil || slices.Contains(ports, port) {
			continue
		}
		if err := ln.Close(); err != nil {
			return nil, fmt.Errorf("closing port %d: %w", port, err)
		}
		ports = append(ports, port)
	}
	return ports, nil
}

func addr(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
