// SPDX-License-Identifier: Apache-2.0

package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readyURL   = "http://127.0.0.1:15021/healthz/ready"
	readyWait  = 20 * time.Second
	readyEvery = 20 * time.Millisecond
	stopWait   = 3 * time.Second
	// drainTime is short: tests leave connections open.
	drainTime = "5s"
)

// Daemon is egressd as a process of its own on the node.
type Daemon struct {
	// Root is what the daemon captures; workloads run in its children.
	Root *Cgroup
	// Capture are the flags that say what is captured; nil: Root.
	Capture []string
	// NodeDNS lets the daemon take the servers of the world's resolv.conf.
	NodeDNS bool
	// Prefix is put before the command line, such as taskset and its arguments.
	Prefix []string
	// Files are descriptors 3 and so on of the next start.
	Files []*os.File

	w     *World
	self  string
	args  []string
	own   *Cgroup // of the daemon itself, outside Root: not captured
	dir   string
	bpffs string

	cmd  *Cmd
	done chan error // the process's end
	pid  atomic.Int64
}

// NewDaemon lays out what the daemon needs: its configuration, a state
// directory, a BPF file system and cgroups. It starts nothing. self is the
// egressd binary; config maps file names to their content; args are added to those of `egressd run`, which trusts the DNS server at
// ResolverV4 unless they name others. Stop takes all
// away again. A world has one daemon at most.
func (w *World) NewDaemon(self string, config map[string][]byte, args ...string) (d *Daemon, err error) {
	d = &Daemon{w: w, self: self, args: args, dir: filepath.Join(w.Dir(), "egressd")}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.own, err = NewCgroup("egressd"); err != nil {
		return nil, err
	}
	if d.Root, err = NewCgroup("captured"); err != nil {
		return nil, err
	}
	if d.bpffs, err = w.MountBPFFS(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.StateDir(), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.ConfigDir(), 0o755); err != nil {
		return nil, err
	}
	for name, content := range config {
		if err := os.WriteFile(filepath.Join(d.ConfigDir(), name), content, 0o644); err != nil {
			return nil, fmt.Errorf("writing the policy: %w", err)
		}
	}
	return d, nil
}

// ConfigDir is where the daemon reads its policy from.
func (d *Daemon) ConfigDir() string { return filepath.Join(d.dir, "config") }

// StateDir is the daemon's --state-dir.
func (d *Daemon) StateDir() string { return filepath.Join(d.dir, "run") }

// PinDir is the daemon's --pin-dir.
func (d *Daemon) PinDir() string { return filepath.Join(d.bpffs, "egressd") }

// CPU is the processor time that the daemon has used so far.
func (d *Daemon) CPU() (time.Duration, error) { return d.own.CPU() }

// Start runs the daemon and waits until it is ready. The error has the end of
// its log.
func (d *Daemon) Start(ctx context.Context) error {
	if err := d.Launch(ctx); err != nil {
		return err
	}
	return d.WaitReady(ctx)
}

// WaitReady waits until the daemon is ready. The error has the end of its log.
func (d *Daemon) WaitReady(ctx context.Context) error {
	if err := d.waitReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, d.tail())
	}
	return nil
}

// Launch is Start without waiting.
func (d *Daemon) Launch(ctx context.Context) error {
	out, err := os.OpenFile(d.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the process has its own descriptor
	line := append(append([]string{}, d.Prefix...), d.self, "run",
		"--state-dir", d.StateDir(), "--pin-dir", d.PinDir(), "--drain-time", drainTime)
	// Without files it has no policy, which the audit mode may do.
	if files, err := os.ReadDir(d.ConfigDir()); err != nil {
		return err
	} else if len(files) > 0 {
		line = append(line, "--config", d.ConfigDir())
	}
	capture := d.Capture
	if capture == nil {
		capture = []string{"--cgroup", d.Root.Path()}
	}
	line = append(append(line, capture...), d.args...)
	if !d.NodeDNS && !slices.Contains(d.args, "--dns-server") {
		line = append(line, "--dns-server", net.JoinHostPort(ResolverV4, "53"))
	}
	// Not bound to ctx: the daemon is stopped in order, by Stop.
	c := d.w.Client(context.WithoutCancel(ctx), d.own, line[0], line[1:]...)
	c.Stdout, c.Stderr, c.ExtraFiles = out, out, d.Files
	if err := c.Start(); err != nil {
		return fmt.Errorf("starting egressd: %w", err)
	}
	done := make(chan error, 1)
	pid := int64(c.Process.Pid)
	d.pid.Store(pid)
	go func() {
		err := c.Wait()
		d.pid.CompareAndSwap(pid, 0) // else another one runs
		done <- err
	}()
	d.cmd, d.done = c, done
	return nil
}

// Takeover starts another daemon that takes over from the one that runs, waits
// until it has, and returns the earlier one. Args are added to its command line.
func (d *Daemon) Takeover(ctx context.Context, args ...string) (before *Before, err error) {
	before, err = d.Reach(ctx, args...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for ready := strings.Count(before.log, readyLine); strings.Count(d.Log(), readyLine) == ready; {
		select {
		case err := <-d.done:
			d.cmd, d.done = before.cmd, before.done
			return nil, fmt.Errorf("the one that was to take over ended: %w\n%s", err, d.tail())
		case <-ctx.Done():
			return nil, fmt.Errorf("nothing was taken over: %w\n%s", ctx.Err(), d.tail())
		case <-tick.C:
		}
	}
	return before, nil
}

// readyLine is what a daemon logs when it serves.
const readyLine = "msg=ready "

// Reach starts the daemon of Takeover and waits for nothing: Kill and the like
// are about that one from now on.
func (d *Daemon) Reach(ctx context.Context, args ...string) (*Before, error) {
	before := &Before{d.cmd, d.done, d.Log()}
	own := d.args
	d.args = append(slices.Clone(own), append([]string{"--takeover"}, args...)...)
	err := d.Launch(ctx)
	d.args = own
	return before, err
}

// Before is a daemon that another one takes over from.
type Before struct {
	cmd  *Cmd
	done chan error
	log  string // until then
}

// Wait waits for its end.
func (b *Before) Wait(ctx context.Context) error {
	select {
	case err := <-b.done:
		return err
	case <-ctx.Done():
		return errors.New("the daemon before did not end")
	}
}

// Ended says whether it has ended.
func (b *Before) Ended() bool { return len(b.done) > 0 }

// Stop asks it to end; Wait waits for it.
func (b *Before) Stop() error { return b.cmd.Process.Signal(syscall.SIGTERM) }

// Keep makes it the daemon again, when the other one has ended.
func (d *Daemon) Keep(b *Before) (ended error) {
	ended = <-d.done
	d.Return(b)
	return ended
}

// Return is Keep when the other one is known to have ended.
func (d *Daemon) Return(b *Before) {
	d.cmd, d.done = b.cmd, b.done
	d.pid.Store(int64(b.cmd.Process.Pid))
}

// waitReady polls the readiness port, as a kubelet would.
func (d *Daemon) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			at, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return d.w.Node.Dial(ctx, "tcp", at)
		},
	}
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, readyURL, nil)
		if err != nil {
			return err
		}
		if resp, err := transport.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-d.done:
			d.cmd = nil
			return fmt.Errorf("egressd ended before it was ready: %v", err)
		case <-ctx.Done():
			return fmt.Errorf("egressd was not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func (d *Daemon) logFile() string { return filepath.Join(d.dir, "log") }

// Log is all that the daemon wrote so far.
func (d *Daemon) Log() string {
	b, _ := os.ReadFile(d.logFile()) // without a log there is nothing to show
	return string(b)
}

// tail is the end of the log.
func (d *Daemon) tail() string {
	lines := strings.Split(strings.TrimSpace(d.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// PID is the daemon's process; 0 when none runs. It may be asked at any time.
func (d *Daemon) PID() int { return int(d.pid.Load()) }

// Signal sends the daemon a signal.
func (d *Daemon) Signal(sig os.Signal) error {
	if d.cmd == nil {
		return os.ErrProcessDone
	}
	return d.cmd.Process.Signal(sig)
}

// Command prepares another egressd process on the node that is not captured,
// such as `egressd status`.
func (d *Daemon) Command(ctx context.Context, args ...string) *Cmd {
	return d.w.Node.Command(ctx, d.own, d.self, args...)
}

// Kill is kill -9: the daemon gets no chance to clean up. Start starts it again.
func (d *Daemon) Kill() error {
	if d.cmd == nil {
		return nil
	}
	// Not by cgroup.kill: since Linux 6.14 that also ends whatever is later
	// cloned into the same cgroup, and Start would fail.
	err := d.cmd.Process.Kill()
	<-d.done
	d.cmd = nil
	return err
}

// Terminate ends the daemon as a service manager does: with a chance to clean
// up, and a capture that stays. Start starts it again.
func (d *Daemon) Terminate() error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-d.done:
		d.cmd = nil
		return err
	case <-time.After(readyWait):
		return errors.New("egressd did not end")
	}
}

// Ended waits for the end of a daemon that was told to end.
func (d *Daemon) Ended() error {
	err := <-d.done
	d.cmd = nil
	return err
}

// Install makes self the binary of the next Start and Command.
func (d *Daemon) Install(self string) { d.self = self }

// Stop ends the daemon, opens the kernel again with `egressd unload`, and
// removes what NewDaemon made, with all processes that still run in Root. It
// works after any failure of Start.
func (d *Daemon) Stop() error {
	if d.cmd != nil {
		_ = d.cmd.Process.Signal(os.Interrupt) // it may have ended by itself
		select {
		case <-d.done:
			d.cmd = nil
		case <-time.After(stopWait):
		}
	}
	err := d.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), readyWait)
	defer cancel()
	out, uerr := d.Command(ctx, "unload", "--state-dir", d.StateDir(), "--pin-dir", d.PinDir()).CombinedOutput()
	if uerr != nil {
		err = errors.Join(err, fmt.Errorf("egressd unload: %w: %s", uerr, bytes.TrimSpace(out)))
	}
	return errors.Join(err, d.close())
}

// close removes the cgroups; the files go with the world.
func (d *Daemon) close() error {
	var errs []error
	for _, cg := range []*Cgroup{d.Root, d.own} {
		if cg != nil {
			errs = append(errs, cg.Close())
		}
	}
	return errors.Join(errs...)
}
