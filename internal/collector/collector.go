// SPDX-License-Identifier: Apache-2.0

// Package collector sends batches to a collector of telemetry, by POST: what OTLP over
// HTTP or gRPC has as a body, or any other.
package collector

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// sendWait is how long a collector may take for one batch.
	sendWait = 10 * time.Second
	grpcType = "application/grpc"
	otlpType = "application/x-protobuf"
)

// Signal is what is sent by OTLP: the path that it has over HTTP, and the method of gRPC.
type Signal struct{ Path, Method string }

// Collector is where batches go. Use OTLP or New.
type Collector struct {
	to      *url.URL
	client  *http.Client
	content string
	grpc    bool
}

// OTLP is a collector that takes a signal: http://, https:// or grpc://ADDRESS:PORT. Over
// HTTP the path is the signal's, unless there is one.
func OTLP(at string, s Signal) (*Collector, error) {
	if !strings.HasPrefix(at, "grpc://") {
		return New(at, s.Path, otlpType)
	}
	to, err := endpoint(at, s.Method, "grpc")
	if err != nil {
		return nil, err
	}
	to.Scheme = "http"
	c := connect(to, grpcType)
	c.grpc = true
	return c, nil
}

// New is a collector at http:// or https://ADDRESS:PORT, with a path unless there is one,
// that takes bodies of a content type.
func New(at, path, content string) (*Collector, error) {
	to, err := endpoint(at, path, "http", "https")
	if err != nil {
		return nil, err
	}
	return connect(to, content), nil
}

func connect(to *url.URL, content string) *Collector {
	// The collector is the operator's: no proxy of the environment stands before it.
	transport := &http.Transport{ResponseHeaderTimeout: sendWait, IdleConnTimeout: time.Minute, MaxIdleConns: 1}
	if content == grpcType {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &Collector{to: to, content: content, client: &http.Client{
		Timeout: sendWait, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Host is its ADDRESS:PORT.
func (c *Collector) Host() string { return c.to.Host }

// Close closes connections that wait for more.
func (c *Collector) Close() { c.client.CloseIdleConnections() }

// Send sends a batch. An error says that the collector has not taken it.
func (c *Collector) Send(ctx context.Context, body []byte) error {
	if c.grpc { // a byte for compression, a length, and the message
		body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.to.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", c.content)
	if c.grpc {
		req.Header.Set("TE", "trailers")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // the status says it
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", resp.Status)
	}
	if !c.grpc {
		return nil
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	if status != "0" {
		return fmt.Errorf("the collector answers with the gRPC status %q", status)
	}
	return nil
}

// endpoint reads where a collector is.
func endpoint(text, path string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err == nil {
		err = errors.New("there is no port")
		if _, _, bad := net.SplitHostPort(u.Host); bad == nil || u.Scheme == "https" && u.Host != "" {
			err = nil
		}
	}
	if err == nil && u.User != nil {
		err = errors.New("it has credentials, which everybody could see")
	}
	for _, s := range schemes {
		if err == nil && u.Scheme == s {
			if u.Path == "" || u.Path == "/" {
				u.Path = path
			}
			return u, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("it begins with none of %s://", strings.Join(schemes, "://, "))
	}
	return nil, fmt.Errorf("the collector %q: %w", text, err)
}
