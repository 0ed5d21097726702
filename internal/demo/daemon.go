// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

const (
	readyURL   = "http://127.0.0.1:15021/healthz/ready"
	readyWait  = 20 * time.Second
	readyEvery = 20 * time.Millisecond
	stopWait   = 3 * time.Second
)

// daemon is egressd as a process of its own on the node.
type daemon struct {
	w      *world.World
	self   string
	own    *world.Cgroup // of the daemon itself: not captured
	root   *world.Cgroup // what it captures
	config string
	state  string
	pins   string
	log    string

	cmd  *world.Cmd
	done chan error // the process's end
}

// newDaemon lays out the files; it starts nothing.
func newDaemon(w *world.World, self string, config fs.FS, own, root *world.Cgroup) (*daemon, error) {
	d := &daemon{
		w: w, self: self, own: own, root: root,
		config: filepath.Join(w.Dir(), "config"),
		state:  filepath.Join(w.Dir(), "run"),
		log:    filepath.Join(w.Dir(), "egressd.log"),
	}
	bpffs, err := w.MountBPFFS()
	if err != nil {
		return nil, err
	}
	d.pins = filepath.Join(bpffs, "egressd-demo-"+strconv.Itoa(os.Getpid()))
	if err := os.CopyFS(d.config, config); err != nil {
		return nil, fmt.Errorf("writing the policy: %w", err)
	}
	return d, os.Mkdir(d.state, 0o755)
}

// start runs the daemon and waits until it is ready.
func (d *daemon) start(ctx context.Context) error {
	out, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the process has its own descriptor
	// Not bound to ctx: the daemon is stopped in order, not with the demo's clients.
	c := d.w.Client(context.WithoutCancel(ctx), d.own, d.self, "run", "--config", d.config, "--cgroup", d.root.Path(),
		"--state-dir", d.state, "--pin-dir", d.pins, "--dns-server", net.JoinHostPort(world.ResolverV4, "53"))
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		return fmt.Errorf("starting egressd: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	d.cmd, d.done = c, done
	if err := d.waitReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, d.tail())
	}
	return nil
}

// waitReady polls the readiness port, as a kubelet would.
func (d *daemon) waitReady(ctx context.Context) error {
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

// tail is the end of the daemon's log.
func (d *daemon) tail() string {
	b, _ := os.ReadFile(d.log) // without a log there is nothing to show
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// kill is kill -9: the daemon gets no chance to clean up.
func (d *daemon) kill() error {
	if d.cmd == nil {
		return nil
	}
	err := d.own.Kill()
	<-d.done
	d.cmd = nil
	return err
}

// stop ends the daemon and opens the kernel again. It works after any failure
// of start.
func (d *daemon) stop() error {
	if d.cmd != nil {
		_ = d.cmd.Process.Signal(os.Interrupt) // it may have ended by itself
		select {
		case <-d.done:
			d.cmd = nil
		case <-time.After(stopWait):
		}
	}
	err := d.kill()
	ctx, cancel := context.WithTimeout(context.Background(), readyWait)
	defer cancel()
	out, uerr := d.w.Node.Command(ctx, d.own, d.self, "unload", "--pin-dir", d.pins).CombinedOutput()
	if uerr != nil {
		err = errors.Join(err, fmt.Errorf("egressd unload: %w: %s", uerr, bytes.TrimSpace(out)))
	}
	return err
}

// event is the part of a flow.Event that the demo shows.
type event struct {
	Time    time.Time      `json:"time"`
	Name    string         `json:"name"`
	Dst     netip.AddrPort `json:"dst"`
	Allowed bool           `json:"allowed"`
	Reason  policy.Reason  `json:"reason"`
	Detail  string         `json:"detail"`
}

// events asks the daemon what it decided.
func (d *daemon) events(ctx context.Context) ([]event, error) {
	out, err := d.w.Node.Command(ctx, d.own, d.self, "flows", "-o", "json", "--state-dir", d.state).Output()
	if err != nil {
		return nil, fmt.Errorf("egressd flows: %w", err)
	}
	return parseEvents(bytes.NewReader(out))
}

// parseEvents reads one JSON object a line, or one array of them.
func parseEvents(r io.Reader) ([]event, error) {
	br := bufio.NewReader(r)
	if b, err := br.Peek(1); err == nil && b[0] == '[' {
		var all []event
		err := json.NewDecoder(br).Decode(&all)
		return all, err
	}
	var all []event
	for dec := json.NewDecoder(br); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return all, fmt.Errorf("events: %w", err)
		}
		all = append(all, e)
	}
}
