// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

const (
	// largePath is answered by the origin with largeSize bytes.
	largePath = "/large"
	// uploadPath is answered when what is sent there has been read, which the origin
	// has done at uploadPort.
	uploadPath = "/upload"
	uploadPort = 5003
	// largeSize is long beside what a socket's buffer takes, and short beside what
	// passes in a second.
	largeSize = 16 << 20
	// largeConns is how many messages are on their way at once.
	largeConns = 8
	// largeScript has wrk send that much.
	largeScript = `wrk.method = "POST"
wrk.body = string.rep("x", %d)
`
)

// writeLarge writes the origin's large answer: zeros that take no room.
func writeLarge(dir string) error {
	f, err := os.Create(filepath.Join(dir, largePath))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(largeSize)
}

// large measures large answers, or with upload large requests, in Gbit/s of those
// that came whole; processor time is per gigabyte.
func (b *bench) large(ctx context.Context, c subject, upload bool) (sample, error) {
	flags := []string{"http://" + host + largePath}
	if upload {
		script, err := b.write("large.lua", fmt.Sprintf(largeScript, largeSize))
		if err != nil {
			return sample{}, err
		}
		flags = []string{"-s", script, "http://" + host + uploadPath}
	}
	s, err := b.load(ctx, c, largeConns, flags...)
	return sample{value: s.value * largeSize * 8 / 1e9, cpu: s.cpu * 1e9 / largeSize}, err
}

// takeUpload reads and forgets a request.
func takeUpload(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, chunkSize)) // an error ends the connection
}
