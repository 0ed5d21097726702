// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/internal/peek/peektest"
)

const (
	// sinkVerb lets this program be the origin of the byte streams,
	// streamVerb their client.
	sinkVerb, streamVerb = "sink", "stream"
	// chunkSize is how much is written and read at a time.
	chunkSize = 256 << 10
	// streamSettle is how long the streams run before they are measured: the
	// congestion windows are open by then.
	streamSettle = 300 * time.Millisecond
)

// streams measures n streams of bytes from the client to the origin, in
// Gbit/s as the origin receives them. With hello, each starts with a
// ClientHello, as whoever reads SNI wants it; what follows is not encrypted,
// which would cost more than everything that is compared here.
func (b *bench) streams(ctx context.Context, c subject, port uint16, n int, hello bool) (_ sample, err error) {
	if c.httpOnly || c.tlsOnly && !hello {
		return sample{}, errNoPart
	}
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	if err := b.idle(ctx); err != nil {
		return sample{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := b.client(ctx, c, self, streamVerb, net.JoinHostPort(host, strconv.Itoa(int(port))), strconv.Itoa(n), strconv.FormatBool(hello))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return sample{}, err
	}
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return sample{}, fmt.Errorf("the client of the streams ended: %w", err)
	}
	select {
	case <-time.After(streamSettle):
	case <-ctx.Done():
		return sample{}, ctx.Err()
	}
	return b.window(ctx, c, n)
}

// idle waits until the streams of the subject before are closed: a proxy
// may still have some of their bytes.
func (b *bench) idle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if r, err := b.received(ctx); err != nil || r.open == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("the streams before are still open")
		}
	}
}

// window measures what the origin receives and the proxy uses for a while.
func (b *bench) window(ctx context.Context, c subject, n int) (sample, error) {
	cpu, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	before, err := b.received(ctx)
	if err != nil {
		return sample{}, err
	}
	select {
	case <-time.After(b.duration):
	case <-ctx.Done():
		return sample{}, ctx.Err()
	}
	after, err := b.received(ctx)
	if err != nil {
		return sample{}, err
	}
	used, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	bytes, seconds := float64(after.bytes-before.bytes), float64(after.nanos-before.nanos)/1e9
	if after.open != n || bytes == 0 {
		return sample{}, fmt.Errorf("%d of %d streams are open, %.0f bytes came", after.open, n, bytes)
	}
	return sample{value: bytes * 8 / seconds / 1e9, cpu: (used - cpu).Seconds() / (bytes / 1e9)}, nil
}

// received is the state of the sink.
type received struct {
	bytes, nanos int64
	open         int
}

func (b *bench) received(ctx context.Context) (r received, err error) {
	conn, err := b.w.Net.Dial(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(originV4), sinkPort))
	if err != nil {
		return r, err
	}
	defer conn.Close()
	_, err = fmt.Fscan(conn, &r.bytes, &r.nanos, &r.open)
	return r, err
}

// sink is the origin: it reads and forgets what comes in on tcpPort and
// tlsPort, and the large requests on uploadPort. A connection to sinkPort is told how
// much came in on the first two.
func sink(addr string) error {
	var total, open atomic.Int64
	start := time.Now()
	for _, port := range []uint16{tcpPort, tlsPort} {
		ln, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(int(port))))
		if err != nil {
			return err
		}
		go serve(ln, func(conn net.Conn) {
			open.Add(1)
			defer open.Add(-1)
			buf := make([]byte, chunkSize)
			for {
				n, err := conn.Read(buf)
				total.Add(int64(n))
				if err != nil {
					return // the client is done
				}
			}
		})
	}
	uploads, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(uploadPort)))
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(uploads, http.HandlerFunc(takeUpload)) }() // until the process is killed
	ln, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(sinkPort)))
	if err != nil {
		return err
	}
	serve(ln, func(conn net.Conn) {
		// The asker may have gone; then nobody misses the answer.
		_, _ = fmt.Fprintln(conn, total.Load(), time.Since(start).Nanoseconds(), open.Load())
	})
	return nil
}

// serve hands each connection to a goroutine, until the process is killed.
func serve(ln net.Listener, each func(net.Conn)) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			continue
		}
		go func() {
			defer conn.Close()
			each(conn)
		}()
	}
}

// stream is the client: n connections that write until the process is killed.
// It prints a line when all of them have begun.
func stream(addr, count, hello string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	var first []byte
	if hello == "true" {
		if first, err = peektest.ClientHello(&tls.Config{ServerName: host}); err != nil {
			return err
		}
		// The kernel reads on behind the hello until application data begins.
		first = append(first, 23, 3, 3, 0x40, 0)
	}
	var begun sync.WaitGroup
	failed := make(chan error, n)
	for range n {
		begun.Add(1)
		go func() {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				_, err = conn.Write(first)
			}
			begun.Done()
			for buf := make([]byte, chunkSize); err == nil; {
				_, err = conn.Write(buf)
			}
			failed <- err
		}()
	}
	begun.Wait()
	fmt.Println("begun")
	return <-failed
}
