// SPDX-License-Identifier: Apache-2.0

package agent

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

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/job"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader"
)

// ExecOptions say what to run under which policy. Options.Cgroup, Workload,
// StateDir and PinDir are chosen by Exec below StateRoot and PinRoot.
type ExecOptions struct {
	Options
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
}

// Errors of Exec that are not egressd's own.
var (
	// ErrNotFound says that there is no such command.
	ErrNotFound = errors.New("the command was not found")
	// ErrNotExecutable says that the command is there and cannot be executed.
	ErrNotExecutable = errors.New("the command cannot be executed")
)

// Exec runs a command in a fresh cgroup under the policy. It returns the
// command's exit code (128 + n when signal n ended it, or came before the
// command was started) and what was denied. Processes that the command leaves
// behind are killed: without egressd they would be free.
func Exec(ctx context.Context, o ExecOptions) (code int, denials explain.Denials, err error) {
	signals := job.Catch()
	defer signals.Stop()
	for _, root := range []string{o.StateRoot, o.PinRoot} {
		if err := securedir.Check(root); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, explain.Denials{}, err
		}
	}
	place, err := execPlace()
	if err != nil {
		return 0, explain.Denials{}, err
	}
	cg, err := cgroup.NewIn(place, execName)
	if err != nil {
		return 0, explain.Denials{}, err
	}
	defer func() { err = errors.Join(err, cg.Close()) }()
	// Not by its pid: another one may have that, in another pid namespace or
	// when this one is dead and its command is still locked in.
	id := execPrefix + rand.Text()
	o.Cgroups = []string{cg.Path()}
	o.Workload = "exec/" + filepath.Base(o.Command[0])
	o.StateDir = filepath.Join(o.StateRoot, id)
	o.PinDir = filepath.Join(o.PinRoot, id)
	// Exec ends its command when it ends. If it is killed, the command holds
	// the mount namespace that they share, and with that the pins.
	o.VolatilePins = true
	if err := o.validate(); err != nil {
		return 0, explain.Denials{}, err
	}
	lock, err := beginExec(o, place)
	if err != nil {
		return 0, explain.Denials{}, err
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(o.StateDir))
		for _, root := range []string{o.StateRoot, o.PinRoot} {
			_ = os.Remove(root) // unless a daemon or another exec is there
		}
	}()
	a, err := newAgent(ctx, o.Options, lock, nil, nil, nil)
	if err != nil {
		_, unloadErr := loader.Unload(o.PinDir)
		return 0, explain.Denials{}, errors.Join(err, unloadErr)
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	// Runs before Close, after the command's processes are gone.
	defer func() { err = errors.Join(err, a.Unload()) }()

	serving, stop := context.WithCancel(ctx)
	ready := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- a.Run(serving, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		stop()
		return 0, explain.Denials{}, err
	}
	code, err = command(o, cg, signals)
	err = errors.Join(err, cg.Kill())
	stop()
	err = errors.Join(err, <-ended)
	denials = a.denied()
	if counters, cerr := a.datapath.Counters(); cerr == nil {
		denials.Lost = counters[loader.CounterLost]
	}
	return code, denials, err
}

// command starts the command inside the cgroup, from its first instruction,
// and waits for it.
func command(o ExecOptions, cg *cgroup.Cgroup, signals *job.Signals) (int, error) {
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
	prepare := func() {
		if err := hide(besideSockets("/")); err != nil {
			o.Log.Warn("the command may have names resolved without DNS, and is refused at their addresses then", "error", err)
		}
	}
	return signals.Run(c, func() error { return start(c, o.NoNewPrivileges, prepare) })
}

// start starts a command that can never get capabilities by which it could
// leave, not even as root or through a setuid program: with CAP_NET_RAW it
// could send frames (packet(7)), with CAP_NET_ADMIN make tunnels, where no
// program of egressd looks. The bounding set and no_new_privs belong to a
// thread and are inherited by what it forks (capabilities(7), prctl(2)); the
// thread ends with the goroutine, since it is not unlocked. prepare runs on it
// before that.
func start(c *exec.Cmd, noNewPrivileges bool, prepare func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		prepare()
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
