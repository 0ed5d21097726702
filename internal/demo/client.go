// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// clientTimeout bounds one attempt; the slow origin is given up by egressd
// after 10 s.
const clientTimeout = 20 * time.Second

// outcome is what one client saw. It is the built-in client's output as JSON.
type outcome struct {
	// Text is the answer: the first bytes of a TCP service, the DNS response code.
	Text string `json:"text,omitempty"`
	// Status is the HTTP status; 0 when there was no response.
	Status int `json:"status,omitempty"`
	// Error is why there was no answer.
	Error string `json:"error,omitempty"`
	// Errno is the system's error number behind Error, 0 if there is none.
	Errno syscall.Errno `json:"errno,omitempty"`
	// Took is how long it took, in nanoseconds.
	Took time.Duration `json:"took"`
	// broken says that the client itself did not work, which proves nothing.
	broken bool
}

// Client is the built-in client, for `egressd demo-client`. It makes one
// attempt, as an ordinary program would, and writes the outcome as JSON:
//
//	http [-ca FILE] [-at ADDRESS] [-6|-4] URL
//	tcp HOST:PORT          connects and reads what the server says first
//	udp ADDRESS:PORT       sends a datagram and waits for its echo
//	dns SERVER NAME        asks for the name's IPv4 address over UDP
//
// The error is about the arguments; a refused attempt is an outcome.
func Client(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("demo-client: want http, tcp, udp or dns")
	}
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	begin := time.Now()
	var o outcome
	var err error
	switch kind := args[0]; {
	case kind == "http":
		o, err = clientHTTP(ctx, args[1:])
	case kind == "tcp" && len(args) == 2:
		o, err = clientTCP(ctx, args[1])
	case kind == "udp" && len(args) == 2:
		o, err = clientUDP(ctx, args[1])
	case kind == "dns" && len(args) == 3:
		o, err = clientDNS(ctx, args[1], args[2])
	default:
		return fmt.Errorf("demo-client: bad arguments %q", args)
	}
	o.Took = time.Since(begin)
	if err != nil {
		o.Error = err.Error()
		errors.As(err, &o.Errno)
	}
	return json.NewEncoder(out).Encode(o)
}

func clientHTTP(ctx context.Context, args []string) (outcome, error) {
	flags := flag.NewFlagSet("http", flag.ContinueOnError)
	ca := flags.String("ca", "", "PEM file")
	at := flags.String("at", "", "connect to this address")
	v6 := flags.Bool("6", false, "IPv6 only")
	v4 := flags.Bool("4", false, "IPv4 only")
	if err := flags.Parse(args); err != nil {
		return outcome{}, err
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if _, port, err := net.SplitHostPort(addr); err == nil && *at != "" {
				addr = net.JoinHostPort(*at, port)
			}
			if *v6 {
				network = "tcp6"
			}
			if *v4 {
				network = "tcp4"
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	defer transport.CloseIdleConnections()
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			return outcome{}, err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, flags.Arg(0), nil)
	if err != nil {
		return outcome{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return outcome{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return outcome{Status: resp.StatusCode}, err
}

func clientTCP(ctx context.Context, addr string) (outcome, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return outcome{}, err
	}
	return readText(ctx, conn)
}

func clientUDP(ctx context.Context, addr string) (outcome, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", addr)
	if err != nil {
		return outcome{}, err
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return outcome{}, errors.Join(err, conn.Close())
	}
	return readText(ctx, conn)
}

// readText returns what the other side says first, for at most 3 s.
func readText(ctx context.Context, conn net.Conn) (outcome, error) {
	defer func() { _ = conn.Close() }()
	deadline := time.Now().Add(3 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return outcome{}, err
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	if err != nil {
		return outcome{}, err
	}
	return outcome{Text: printable(buf[:n])}, nil
}

// printable keeps what a terminal can show.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b))
}

func clientDNS(ctx context.Context, server, name string) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	rcode, _, err := world.Ask(ctx, "udp", server, name, "A")
	return outcome{Text: rcode}, err
}
