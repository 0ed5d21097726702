// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/cgroup"
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
	Credential     *syscall.Credential
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// ErrCommand says that the command could not be started.
var ErrCommand = errors.New("cannot start the command")

// Exec runs a command in a fresh cgroup under the policy. It returns the
// command's exit code (128 + n when signal n ended it) and what was denied.
// Processes that the command leaves behind are killed: without egressd they
// would be free.
func Exec(ctx context.Context, o ExecOptions) (code int, denials Denials, err error) {
	for _, root := range []string{o.StateRoot, o.PinRoot} {
		if err := securedir.Check(root); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, Denials{}, err
		}
	}
	sweepExec(o.StateRoot, o.PinRoot)
	place, err := execPlace()
	if err != nil {
		return 0, Denials{}, err
	}
	cg, err := cgroup.NewIn(place, "exec")
	if err != nil {
		return 0, Denials{}, err
	}
	defer func() { err = errors.Join(err, cg.Close()) }()
	id := "exec-" + strconv.Itoa(os.Getpid())
	o.Cgroups = []string{cg.Path()}
	o.Workload = "exec/" + filepath.Base(o.Command[0])
	o.StateDir = filepath.Join(o.StateRoot, id)
	o.PinDir = filepath.Join(o.PinRoot, id)
	// Exec ends its command when it ends. If it is killed, the command holds
	// the mount namespace that they share, and with that the pins.
	o.VolatilePins = true
	defer func() {
		err = errors.Join(err, os.RemoveAll(o.StateDir))
		for _, root := range []string{o.StateRoot, o.PinRoot} {
			_ = os.Remove(root) // unless a daemon or another exec is there
		}
	}()

	a, err := New(ctx, o.Options)
	if err != nil {
		_, unloadErr := loader.Unload(o.PinDir)
		return 0, Denials{}, errors.Join(err, unloadErr)
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	// The log keeps the newest events only, and the command may make many.
	sum := newTally()
	a.recorder.tally = sum
	err = securedir.Replace(filepath.Join(o.StateDir, cgroupFile), func(f *os.File) error {
		_, err := f.WriteString(cg.Path())
		return err
	})
	if err != nil {
		return 0, Denials{}, errors.Join(err, a.Unload())
	}
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
		return 0, Denials{}, err
	}
	code, err = command(ctx, o, cg)
	err = errors.Join(err, cg.Kill())
	stop()
	err = errors.Join(err, <-ended)
	denials = sum.denials()
	if counters, cerr := a.datapath.Counters(); cerr == nil {
		denials.Lost = counters[loader.CounterLost]
	}
	return code, denials, err
}

// command starts the command inside the cgroup, from its first instruction,
// and waits for it.
func command(ctx context.Context, o ExecOptions, cg *cgroup.Cgroup) (int, error) {
	c := exec.CommandContext(ctx, o.Command[0], o.Command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = o.Stdin, o.Stdout, o.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true,
		CgroupFD:    cg.FD(),
		Credential:  o.Credential,
	}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP,
		syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	prepare := func() {
		if err := hide(besideSockets("/")); err != nil {
			o.Log.Warn("the command may have names resolved without DNS, and is refused at their addresses then", "error", err)
		}
	}
	if err := startWithout(c, prepare, unix.CAP_NET_RAW, unix.CAP_NET_ADMIN); err != nil {
		return 127, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				// The terminal sends these to the command as well.
				if (s == syscall.SIGINT || s == syscall.SIGQUIT) && onTerminal() {
					continue
				}
				_ = c.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	err := c.Wait()
	close(done)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// startWithout starts a command that can never get the given capabilities,
// not even as root or through a setuid program: with CAP_NET_RAW it could send
// frames (packet(7)), with CAP_NET_ADMIN make tunnels, where no program of
// egressd looks. The bounding set belongs to a thread and is inherited by what
// it forks (capabilities(7)); the thread ends with the goroutine, since it is
// not unlocked. prepare runs on it before that.
func startWithout(c *exec.Cmd, prepare func(), caps ...uintptr) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		prepare()
		for _, which := range caps {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, which, 0, 0, 0); err != nil {
				done <- fmt.Errorf("drop a capability: %w", err)
				return
			}
		}
		done <- c.Start()
	}()
	return <-done
}

func onTerminal() bool {
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	return err == nil
}

// sweepExec removes what killed "egressd exec" processes left, unless the
// command's processes are still there: those stay locked in.
func sweepExec(stateRoot, pinRoot string) {
	dirs, _ := filepath.Glob(filepath.Join(stateRoot, "exec-*")) // the pattern is good
	for _, dir := range dirs {
		lock, err := securedir.OpenFile(filepath.Join(dir, lockFile), os.O_RDONLY)
		if err != nil {
			continue
		}
		free := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
		if free && removeExecCgroup(dir) {
			if _, err := loader.Unload(filepath.Join(pinRoot, filepath.Base(dir))); err == nil {
				os.RemoveAll(dir)
			}
		}
		lock.Close()
	}
}

// cgroupFile in the state directory of an exec names its cgroup, for whoever
// cleans up after a killed one.
const cgroupFile = "cgroup"

// removeExecCgroup removes the empty cgroup of a dead exec; false: there are
// processes in it.
func removeExecCgroup(stateDir string) bool {
	path, err := securedir.ReadFile(filepath.Join(stateDir, cgroupFile))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	err = os.Remove(string(path))
	return err == nil || errors.Is(err, os.ErrNotExist)
}
