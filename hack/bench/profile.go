// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
)

// The daemon's admin socket, in its state directory, and where its profile is there.
const (
	adminSocket = "admin.sock"
	profilePath = "/debug/pprof/profile"
)

// profiled runs a measurement and has egressd profile itself meanwhile, for as long as
// the measurement takes. The profiles are in the directory that -profile names, one for
// each measurement and round, for "go tool pprof".
func (b *bench) profiled(ctx context.Context, name string, measure func() (sample, error)) (sample, error) {
	ended := make(chan error, 1)
	go func() { ended <- b.profile(ctx, filepath.Join(b.options.profile, name+".pprof")) }()
	s, err := measure()
	if perr := <-ended; err == nil && perr != nil {
		err = fmt.Errorf("profile: %w", perr)
	}
	return s, err
}

// profile asks the daemon for a profile of its processor time and writes it to file.
func (b *bench) profile(ctx context.Context, file string) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(b.daemon.StateDir(), adminSocket))
		},
	}}
	at := url.URL{
		Scheme: "http", Host: "egressd", Path: profilePath,
		RawQuery: url.Values{"seconds": {strconv.Itoa(int(b.duration.Seconds()))}}.Encode(),
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %.200s", resp.Status, data)
	}
	return os.WriteFile(file, data, 0o644)
}
