// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/flock"
	"github.com/egressd/egressd/internal/securedir"
)

// errNoDaemon says that nobody listens on the admin socket.
var errNoDaemon = errors.New("no daemon")

// answerWait is how long the daemon may take for an answer unless --timeout says
// something else.
const answerWait = 5 * time.Second

// silentError says that there is a daemon and that it does not answer.
type silentError struct {
	pid    int // 0: it is not known
	socket string
	wait   time.Duration
}

func (e *silentError) Error() string {
	who, kill := "the daemon", "end it (kill -9)"
	if e.pid > 0 {
		who, kill = fmt.Sprintf("the daemon (pid %d)", e.pid), fmt.Sprintf("end it (kill -9 %d)", e.pid)
	}
	return fmt.Sprintf("%s does not answer on %s within %s: it is stopped, stuck, or short of processor time (--timeout). "+
		"The kernel goes on with the policy that is in force, but DNS and proxied connections may get no answer. "+
		"See its log, %s and start it again: the policy stays in force meanwhile. \"egressd unload\" opens everything", who, e.socket, e.wait, kill)
}

// client talks to the daemon's admin socket.
type client struct {
	stateDir string
	wait     time.Duration // for an answer
}

// register adds the flags that say which daemon is asked, and for how long.
func (c *client) register(cmd *cobra.Command) {
	registerDirs(cmd, &c.stateDir, nil)
	what := "how long to wait for the daemon's answer"
	if cmd.Flags().Lookup("follow") != nil {
		what += ", or with -f for its beginning"
	}
	cmd.Flags().DurationVar(&c.wait, "timeout", answerWait, what)
}

func (c client) socket() string { return filepath.Join(c.stateDir, agent.AdminSocket) }

// ask sends a request and returns the answer.
func (c client) ask(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	resp, err := c.open(limited, method, path, query)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, c.failure(fmt.Errorf("read the daemon's answer: %w", err))
	}
	return data, nil
}

// follow sends a request whose answer goes on until ctx is done. The caller
// closes it.
func (c client) follow(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	resp, err := c.open(ctx, http.MethodGet, path, query)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// open sends a request and waits for the beginning of the answer. The caller closes its
// body.
func (c client) open(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	if c.wait <= 0 {
		return nil, usageError{fmt.Errorf("--timeout is a time such as 5s, not %s", c.wait)}
	}
	if err := state.CheckSockets(c.stateDir); err != nil {
		return nil, usageError{fmt.Errorf("no daemon can run there: %w", err)}
	}
	// Somebody else's socket would say whatever its owner likes.
	if err := securedir.Check(c.stateDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	hc := http.Client{Transport: &http.Transport{
		DisableKeepAlives:     true,
		ResponseHeaderTimeout: c.wait,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: c.wait}
			return d.DialContext(ctx, "unix", c.socket())
		},
	}}
	u := url.URL{Scheme: "http", Host: "egressd", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, c.failure(err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // the status says it all the same
		return nil, fmt.Errorf("the daemon says: %s", bytes.TrimSpace(text))
	}
	return resp, nil
}

// failure says what a failed request means and what to do.
func (c client) failure(err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: permission denied: only root and the group of \"egressd run --admin-group\" may read there; run it with sudo", c.socket())
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w answers on %s; start one with: egressd run --config PATH", errNoDaemon, c.socket())
	// EAGAIN: so many are waiting already that the kernel takes no more.
	case errors.Is(err, syscall.EAGAIN), errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		pid, _, _ := flock.Holder(filepath.Join(c.stateDir, agent.LockFile)) // 0 if that is not known
		return &silentError{pid, c.socket(), c.wait}
	}
	return err
}

// told is what a body says of the daemon in an error of encoding/json.
func told(err error) error { return fmt.Errorf("read the daemon's answer: %w", err) }

// or adds the other way to an error of a verb that has one.
func or(err error, otherwise string) error {
	if errors.Is(err, errNoDaemon) || err != nil && strings.Contains(err.Error(), "permission denied") {
		return fmt.Errorf("%w; or %s", err, otherwise)
	}
	return err
}
