// SPDX-License-Identifier: Apache-2.0

// Package exec runs one command in a cgroup of its own, under a gateway that its
// caller makes, and leaves nothing behind.
package exec

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent/teardown"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/job"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader/bpffs"
)

// Options say what to run, and where what belongs to it is kept.
type Options struct {
	// StateRoot and PinRoot are where the state and the pins of each command get a
	// directory.
	StateRoot, PinRoot string
	Command            []string
	// Credential runs the command as another user; nil: as the caller.
	Credential *syscall.Credential
	// NoNewPrivileges keeps the command from getting more privileges by an
	// execve(2): setuid programs (sudo, su) and file capabilities give none.
	NoNewPrivileges bool
	// Env is the command's environment; nil: the caller's.
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Prepare is called on the thread that starts the command, before it has lost
	// any capability; what it does to the thread the command has as well.
	Prepare func()
}

// Place is what belongs to one command.
type Place struct {
	Cgroup, StateDir, PinDir string
	// Lock is that of StateDir. Who makes the gateway gets it, and closes it.
	Lock *os.File
}

// Gateway puts what is in a cgroup under a policy.
type Gateway interface {
	// Run serves until ctx is done; ready is called when the policy is in force.
	Run(ctx context.Context, ready func()) error
	// Unload removes what is in the kernel: what is in the cgroup is free.
	Unload() error
	// Close releases what else there is.
	Close() error
}

// Errors of Run that are not egressd's own.
var (
	// ErrNotFound says that there is no such command.
	ErrNotFound = errors.New("the command was not found")
	// ErrNotExecutable says that the command is there and cannot be executed.
	ErrNotExecutable = errors.New("the command cannot be executed")
)

// Run runs a command in a fresh cgroup under the gateway that open makes. It returns
// the command's exit code (128 + n when signal n ended it, or came before the
// command was started). Processes that the command leaves behind are killed:
// without egressd they would be free.
func Run(ctx context.Context, o Options, open func(Place) (Gateway, error)) (code int, err error) {
	signals := job.Catch()
	defer signals.Stop()
	for _, root := range []string{o.StateRoot, o.PinRoot} {
		if err := securedir.Check(root); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	above, err := place()
	if err != nil {
		return 0, err
	}
	cg, err := cgroup.NewIn(above, execName)
	if err != nil {
		return 0, err
	}
	// Not by its pid: another one may have that, in another pid namespace or
	// when this one is dead and its command is still locked in.
	id := execPrefix + rand.Text()
	p := Place{Cgroup: cg.Path(), StateDir: filepath.Join(o.StateRoot, id), PinDir: filepath.Join(o.PinRoot, id)}
	if p.Lock, err = begin(o, p, above); err != nil {
		return 0, errors.Join(err, cg.Close())
	}
	end := teardown.Teardown{
		Detach:  func() error { _, err := bpffs.Unload(p.PinDir); return err },
		State:   func() error { return o.forget(p) },
		Cgroups: cg.Close,
	}
	defer func() { err = errors.Join(err, end.Run()) }()
	g, err := open(p)
	if err != nil {
		return 0, err
	}
	// After the command's processes are gone.
	end.Detach = g.Unload
	end.State = func() error { return errors.Join(g.Close(), o.forget(p)) }
	return serve(ctx, o, g, cg, signals)
}

// forget removes the state of a command, and the roots unless a daemon or another
// exec is there.
func (o *Options) forget(p Place) error {
	err := os.RemoveAll(p.StateDir)
	for _, root := range []string{o.StateRoot, o.PinRoot} {
		_ = os.Remove(root)
	}
	return err
}

// serve runs the gateway, and the command as soon as that is ready.
func serve(ctx context.Context, o Options, g Gateway, cg *cgroup.Cgroup, signals *job.Signals) (code int, err error) {
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ready := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- g.Run(serving, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		return 0, err
	}
	code, err = command(o, cg, signals)
	err = errors.Join(err, cg.Kill())
	stop()
	return code, errors.Join(err, <-ended)
}

// command starts the command inside the cgroup, from its first instruction,
// and waits for it.
func command(o Options, cg *cgroup.Cgroup, signals *job.Signals) (int, error) {
	if sig, ended := signals.Ended(); ended {
		return 128 + int(sig), nil
	}
	c := exec.Command(o.Command[0], o.Command[1:]...)
	if errors.Is(c.Err, exec.ErrDot) {
		c.Err = nil // PATH has ".", and whoever wrote it wants that
	}
	if c.Err != nil {
		return 0, notStarted(c.Err)
	}
	c.Stdin, c.Stdout, c.Stderr, c.Env = o.Stdin, o.Stdout, o.Stderr, o.Env
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cg.FD(), Credential: o.Credential}
	return signals.Run(c, func() error { return start(c, o.NoNewPrivileges, o.Prepare) })
}

// start starts a command that can never get capabilities by which it could
// leave, not even as root or through a setuid program: with CAP_NET_RAW it
// could send frames (packet(7)), with CAP_NET_ADMIN make tunnels, where no
// program of egressd looks. The bounding set and no_new_privs belong to a
// thread and are inherited by what it forks (capabilities(7), prctl(2)); the
// thread ends with the goroutine, since it is not unlocked. prepare, if there is
// one, runs on it before that.
func start(c *exec.Cmd, noNewPrivileges bool, prepare func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if prepare != nil {
			prepare()
		}
		for _, which := range []uintptr{unix.CAP_NET_RAW, unix.CAP_NET_ADMIN} {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, which, 0, 0, 0); err != nil {
				done <- fmt.Errorf("drop a capability: %w", err)
				return
			}
		}
		if noNewPrivileges {
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				done <- fmt.Errorf("set no_new_privs: %w", err)
				return
			}
		}
		if err := c.Start(); err != nil {
			done <- notStarted(err)
			return
		}
		done <- nil
	}()
	return <-done
}

// notStarted says whose fault it is that the command was not started, as a
// shell does: what is not there is not found, also when it is what the first
// line of a script names.
func notStarted(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", ErrNotExecutable, err)
}
