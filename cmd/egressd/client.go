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

	"github.com/egressd/egressd/internal/agent"
	"github.com/egressd/egressd/internal/securedir"
)

// errNoDaemon says that nobody listens on the admin socket.
var errNoDaemon = errors.New("no daemon")

// answerWait bounds how long the daemon may take for an answer. It gives
// itself less for writing one.
const answerWait = 15 * time.Second

// client talks to the daemon's admin socket.
type client struct {
	stateDir string
	wait     time.Duration // for an answer
}

func daemonAt(stateDir string) client { return client{stateDir, answerWait} }

func (c client) socket() string { return filepath.Join(c.stateDir, agent.AdminSocket) }

// ask sends a request and returns the answer.
func (c client) ask(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	body, err := c.open(limited, method, path, query)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, c.failure(fmt.Errorf("read the daemon's answer: %w", err))
	}
	return data, nil
}

// follow sends a request whose answer goes on until ctx is done. The caller
// closes it.
func (c client) follow(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	return c.open(ctx, http.MethodGet, path, query)
}

// open sends a request and waits for the beginning of the answer.
func (c client) open(ctx context.Context, method, path string, query url.Values) (io.ReadCloser, error) {
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
	return resp.Body, nil
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
		return fmt.Errorf("the daemon does not answer on %s within %s: it is stopped or stuck. The kernel goes on with the policy that is in force; see the daemon's log, end the process and start it again", c.socket(), c.wait)
	}
	return err
}

// told is what a body says of the daemon in an error of encoding/json.
func told(err error) error { return fmt.Errorf("read the daemon's answer: %w", err) }

// orConfig adds the other way to an error of a verb that has one.
func orConfig(err error) error {
	if errors.Is(err, errNoDaemon) || strings.Contains(err.Error(), "permission denied") {
		return fmt.Errorf("%w; or give the policy with --config", err)
	}
	return err
}
