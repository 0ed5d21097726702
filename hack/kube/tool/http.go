// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// serve answers every request with the host's name.
func serve(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	s := &http.Server{Addr: args[0], ReadHeaderTimeout: attemptWait, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, name)
	})}
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// get prints the status and then the body. An answer of 4xx or 5xx is one.
// Authorities are those of SSL_CERT_FILE (crypto/x509).
func get(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("get", flag.ContinueOnError)
	fresh := f.Bool("close", false, "a connection for each request")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errUsage
	}
	status, body, err := request(ctx, client(*fresh), f.Arg(0))
	if err != nil {
		return err
	}
	fmt.Println(status)
	fmt.Println(body)
	return nil
}

func client(fresh bool) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: fresh, ForceAttemptHTTP2: true}}
}

func request(ctx context.Context, c *http.Client, url string) (status, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptWait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", "", err
	}
	res, err := c.Do(r)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.Status, string(text), err
}

// onceResolved dials the addresses that a name had when it was dialled first.
func onceResolved() func(ctx context.Context, network, addr string) (net.Conn, error) {
	known := map[string][]string{}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if known[addr] == nil {
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			found, err := net.DefaultResolver.LookupHost(ctx, host)
			if err != nil {
				return nil, err
			}
			for _, a := range found {
				known[addr] = append(known[addr], net.JoinHostPort(a, port))
			}
		}
		var errs []error
		for _, at := range known[addr] {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, at)
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
}

// load asks for a URL again and again, by one connection for all requests and
// by a new one for each, in turn. It prints "started" after the first that was
// answered with 200, every failure after that, and in the end "requests N,
// failed N".
func load(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	duration := f.Duration("for", forever, "how long")
	known := f.Bool("known", false, "ask for the addresses of the name once")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errUsage
	}
	deadline := time.Now().Add(*duration)
	clients := []*http.Client{client(false), client(true)}
	for _, c := range clients {
		if t, ok := c.Transport.(*http.Transport); ok && *known {
			t.DialContext = onceResolved()
		}
	}
	var requests, failed int
	for i := 0; ctx.Err() == nil && time.Now().Before(deadline); i++ {
		// Not with ctx: a request that a signal interrupts has not failed.
		status, _, err := request(context.Background(), clients[i%2], f.Arg(0))
		ok := err == nil && status == "200 OK"
		if requests == 0 && !ok {
			time.Sleep(10 * time.Millisecond) // it has not begun
			continue
		}
		if requests == 0 {
			fmt.Println("started")
		}
		requests++
		if !ok {
			failed++
			fmt.Printf("%s request %d failed: %s %v\n", time.Now().UTC().Format("15:04:05.000"), requests, status, err)
		}
		time.Sleep(time.Millisecond)
	}
	fmt.Printf("requests %d, failed %d\n", requests, failed)
	return nil
}
