// SPDX-License-Identifier: Apache-2.0

package main

import (
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

	"github.com/egressd/egressd/internal/agent"
	"github.com/egressd/egressd/internal/securedir"
)

// errNoDaemon says that nobody listens on the admin socket.
var errNoDaemon = errors.New("no daemon")

// ask sends a request to the daemon's admin socket. The caller closes the body.
func ask(ctx context.Context, stateDir, method, path string, query url.Values) (io.ReadCloser, error) {
	// Somebody else's socket would say whatever its owner likes.
	if err := securedir.Check(stateDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	socket := filepath.Join(stateDir, agent.AdminSocket)
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	u := url.URL{Scheme: "http", Host: "egressd", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: permission denied; run it with sudo", socket)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w answers on %s; start one with: egressd run --config PATH", errNoDaemon, socket)
	case err != nil:
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // the status says it all the same
		return nil, fmt.Errorf("the daemon says: %s", strings.TrimSpace(string(text)))
	}
	return resp.Body, nil
}
