// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
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
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/world"
)

const (
	// attemptTime bounds an attempt. It is longer than what a DNS client of the
	// C library gives a server.
	attemptTime = 5 * time.Second
	// lineEvery is how often a byte goes over a connection that stays open, and
	// lineTime how long one stays.
	lineEvery = 50 * time.Millisecond
	lineTime  = 20 * time.Second
	// tellEvery is how often what went well is told.
	tellEvery = 200 * time.Millisecond
)

// report is what a client says: an attempt that went wrong, or how many went
// well since the last time.
type report struct {
	Kind string `json:"kind"`
	// From and Until are when the attempt was made, or the first and the last
	// of those that went well.
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	Good  int       `json:"good,omitempty"`
	// Slowest is the longest of those that went well.
	Slowest time.Duration `json:"slowest,omitempty"`
	Error   string        `json:"error,omitempty"`
}

// kind is one thing that clients do over and over.
type kind struct {
	name string
	// needs says what of the daemon an attempt needs; nothing: the kernel
	// decides alone.
	needs need
	// pause is between two attempts.
	pause time.Duration
	do    func(context.Context, *client) error
}

// need is what an attempt needs besides the kernel side.
type need int

const (
	kernel   need = iota
	daemon        // the daemon has to live: proxied connections
	resolver      // and DNS servers have to answer
)

// kinds are what the clients do. What is named evil must not succeed.
var kinds = []kind{
	{"dns4", resolver, 20 * time.Millisecond, asks("udp", world.ResolverV4, world.API, "A", true)},
	{"dns6", resolver, 20 * time.Millisecond, asks("udp", world.ResolverV6, world.API, "AAAA", true)},
	{"dns-tcp", resolver, 50 * time.Millisecond, asks("tcp", world.OtherResolverV4, world.API2, "A", true)},
	{"rotating", resolver, 50 * time.Millisecond, rotating},
	{"http4", daemon, 20 * time.Millisecond, gets(false, 4)},
	{"http6", daemon, 20 * time.Millisecond, gets(false, 6)},
	{"stream4", daemon, 100 * time.Millisecond, streams(4)},
	{"stream6", daemon, 100 * time.Millisecond, streams(6)},
	{"tls4", kernel, 20 * time.Millisecond, gets(true, 4)},
	{"tls6", kernel, 20 * time.Millisecond, gets(true, 6)},
	{"db4", kernel, 20 * time.Millisecond, greets(world.DBV4)},
	{"db6", kernel, 20 * time.Millisecond, greets(world.DBV6)},
	{"line4", kernel, 20 * time.Millisecond, line(world.DBV4)},
	{"line6", kernel, 20 * time.Millisecond, line(world.DBV6)},
	{"evil-tcp4", kernel, 50 * time.Millisecond, evilTCP(world.StrangerV4)},
	{"evil-tcp6", kernel, 50 * time.Millisecond, evilTCP(world.StrangerV6)},
	{"evil-udp4", kernel, 50 * time.Millisecond, evilUDP(world.StrangerV4)},
	{"evil-udp6", kernel, 50 * time.Millisecond, evilUDP(world.StrangerV6)},
	{"evil-dns", kernel, 100 * time.Millisecond, asks("udp", world.ResolverV4, world.Stranger, "A", false)},
	{"evil-sni", kernel, 100 * time.Millisecond, evilSNI},
	{"evil-host", kernel, 100 * time.Millisecond, evilHost},
}

// client is what the attempts of one process share.
type client struct {
	roots   *x509.CertPool
	api     [2]netip.Addr // v4, v6
	reports chan report
}

// runClient is `soak client`: it works until its standard input is closed.
func runClient(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	ca := flags.String("ca", "", "PEM file of the sites' authority")
	api4 := flags.String("api4", "", "IPv4 address of the API")
	api6 := flags.String("api6", "", "IPv6 address of the API")
	once := flags.Bool("once", false, "each kind once, except connections that stay")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return err
	}
	c := &client{roots: x509.NewCertPool(), reports: make(chan report, 1024)}
	if !c.roots.AppendCertsFromPEM(pem) {
		return errors.New("no certificate in " + *ca)
	}
	for i, s := range []string{*api4, *api6} {
		if c.api[i], err = netip.ParseAddr(s); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !*once {
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	}
	var working sync.WaitGroup
	for _, k := range kinds {
		if *once && (k.name == "line4" || k.name == "line6") {
			continue
		}
		working.Go(func() { c.work(ctx, k, *once) })
	}
	go func() { working.Wait(); close(c.reports) }()
	enc := json.NewEncoder(out)
	for r := range c.reports {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// work makes attempts of one kind until ctx ends.
func (c *client) work(ctx context.Context, k kind, once bool) {
	good := report{Kind: k.name, From: time.Now()}
	tell := func() {
		if good.Good > 0 {
			c.reports <- good
		}
		good = report{Kind: k.name, From: time.Now()}
	}
	defer tell()
	for ctx.Err() == nil {
		from := time.Now()
		err := k.do(ctx, c)
		until := time.Now()
		switch {
		case err != nil && ctx.Err() != nil: // the end cut it
			return
		case err != nil:
			tell()
			c.reports <- report{Kind: k.name, From: from, Until: until, Error: err.Error()}
		default:
			good.Good++
			good.Until = until
			good.Slowest = max(good.Slowest, until.Sub(from))
		}
		if once {
			return
		}
		if until.Sub(good.From) > tellEvery {
			tell()
		}
		select {
		case <-ctx.Done():
		case <-time.After(k.pause):
		}
	}
}

// dial connects with the attempt's bound as the connection's deadline.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Deadline: time.Now().Add(attemptTime)}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(attemptTime))
}

// resolve asks a server for the addresses of name; qtype is A or AAAA.
func resolve(ctx context.Context, network, server, name, qtype string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	rcode, addrs, err := world.Ask(ctx, network, net.JoinHostPort(server, "53"), name, qtype)
	switch {
	case err != nil:
		return nil, err
	case rcode != "NOERROR":
		return nil, errors.New(rcode)
	case len(addrs) == 0:
		return nil, errors.New("no address in the answer")
	}
	return addrs, nil
}

func asks(network, server, name, qtype string, want bool) func(context.Context, *client) error {
	return func(ctx context.Context, _ *client) error {
		addrs, err := resolve(ctx, network, server, name, qtype)
		if want || err != nil {
			if !want {
				return nil
			}
			return err
		}
		return fmt.Errorf("%s has the addresses %v", name, addrs)
	}
}

// get makes one request to a site at an address, as host.
func (c *client) get(ctx context.Context, scheme, host string, at netip.Addr, path string) (*http.Response, error) {
	port := map[string]uint16{"http": 80, "https": 443}[scheme]
	t := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: c.roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, "tcp", netip.AddrPortFrom(at, port).String())
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+path, nil)
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(req)
}

// fetch is get, with the body read and the status checked.
func (c *client) fetch(ctx context.Context, scheme, host string, at netip.Addr, path string) ([]byte, error) {
	resp, err := c.get(ctx, scheme, host, at, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.100s", resp.StatusCode, body)
	}
	return body, err
}

func (c *client) apiAt(family int) netip.Addr {
	if family == 4 {
		return c.api[0]
	}
	return c.api[1]
}

func gets(secure bool, family int) func(context.Context, *client) error {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return func(ctx context.Context, c *client) error {
		_, err := c.fetch(ctx, scheme, world.API, c.apiAt(family), "/")
		return err
	}
}

// streams reads a second's events through the proxy.
func streams(family int) func(context.Context, *client) error {
	return func(ctx context.Context, c *client) error {
		const events = 20
		body, err := c.fetch(ctx, "http", world.API, c.apiAt(family), fmt.Sprintf("/sse?n=%d&d=50ms", events))
		if err == nil && len(body) < events*len("data: 0\n\n") {
			err = fmt.Errorf("the stream ended after %d bytes", len(body))
		}
		return err
	}
}

// rotating goes where a name leads that has another address every second.
func rotating(ctx context.Context, c *client) error {
	addrs, err := resolve(ctx, "udp", world.ResolverV4, rotatingName, "A")
	if err != nil {
		return err
	}
	_, err = c.fetch(ctx, "https", rotatingName, addrs[0], "/")
	return err
}

// greets opens a connection to the database and reads what it says first.
func greets(addr string) func(context.Context, *client) error {
	return func(ctx context.Context, _ *client) error {
		conn, _, err := database(ctx, addr)
		if err == nil {
			err = conn.Close()
		}
		return err
	}
}

func database(ctx context.Context, addr string) (net.Conn, *bufio.Reader, error) {
	conn, err := dial(ctx, "tcp", net.JoinHostPort(addr, "3306"))
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(conn)
	greeting := make([]byte, len(world.Greeting))
	if _, err := io.ReadFull(in, greeting); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, in, nil
}

// line holds a connection to the database and sends a byte now and then.
func line(addr string) func(context.Context, *client) error {
	return func(ctx context.Context, _ *client) error {
		conn, in, err := database(ctx, addr)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		for end := time.Now().Add(lineTime); time.Now().Before(end) && ctx.Err() == nil; {
			if err := conn.SetDeadline(time.Now().Add(attemptTime)); err != nil {
				return err
			}
			if _, err := conn.Write([]byte{'x'}); err != nil {
				return err
			}
			if b, err := in.ReadByte(); err != nil || b != 'x' {
				return fmt.Errorf("the connection broke: %w", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(lineEvery):
			}
		}
		return nil
	}
}

var errEscaped = errors.New("it got through")

func evilTCP(addr string) func(context.Context, *client) error {
	return func(ctx context.Context, _ *client) error {
		conn, err := dial(ctx, "tcp", net.JoinHostPort(addr, "443"))
		if err != nil {
			return nil
		}
		_ = conn.Close()
		return errEscaped
	}
}

// evilUDP only sends: who listens for what gets out is the wire.
func evilUDP(addr string) func(context.Context, *client) error {
	return func(ctx context.Context, _ *client) error {
		conn, err := dial(ctx, "udp", net.JoinHostPort(addr, "443"))
		if err != nil {
			return nil
		}
		_, err = conn.Write([]byte("x"))
		_ = conn.Close()
		if err == nil {
			return errEscaped
		}
		return nil
	}
}

// evilSNI asks an allowed address for a name that is not allowed.
func evilSNI(ctx context.Context, c *client) error {
	if _, err := c.fetch(ctx, "https", world.Stranger, c.api[0], "/"); err != nil {
		var wrong x509.HostnameError
		if !errors.As(err, &wrong) {
			return nil
		}
	}
	return errEscaped
}

// evilHost does so in the clear.
func evilHost(ctx context.Context, c *client) error {
	resp, err := c.get(ctx, "http", world.Stranger, c.api[0], "/")
	if err != nil {
		return nil
	}
	_ = resp.Body.Close()
	if resp.Header.Get("X-Origin") != "" {
		return errEscaped
	}
	return nil
}
