// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxBytes bounds what /bytes/N sends, so that a typing error does not fill a disk.
const maxBytes = 8 << 30

// Origin is one web server of the little internet, on HTTP and HTTPS. Its
// paths:
//
//	/status/N        answers with status N
//	/bytes/N         N bytes
//	/slow?d=10s      answers after d, or when the client has gone
//	/hold            answers when Release is called
//	/sse?n=3&d=10ms  n server-sent events, d apart
//	/flaky?key=K&n=2 503 for the first n requests of that key, then 200
//	/drop            closes the connection without an answer
//	/upgrade         switches to an echo protocol when asked for `Upgrade: echo`
//	.../ntlm         401 until the connection has had a request with NTLM
//	                 credentials, whatever the later ones have
//	anything else    the request as JSON (Echo)
type Origin struct {
	Name  string // the first of Names
	Names []string
	V4    netip.Addr
	V6    netip.Addr

	hits    atomic.Int64
	conns   atomic.Int64
	mu      sync.Mutex
	flaky   map[string]int
	logins  sync.Map // the remote addresses of connections with credentials
	release chan struct{}
	running sync.WaitGroup
	servers []*http.Server
	handler http.Handler // nil: none in its place
}

// Echo is what an Origin says about a request that it got.
type Echo struct {
	Origin string              `json:"origin"`
	Method string              `json:"method"`
	Host   string              `json:"host"`
	Path   string              `json:"path"`
	Query  string              `json:"query,omitempty"`
	Proto  string              `json:"proto"`
	SNI    string              `json:"sni,omitempty"`
	Header map[string][]string `json:"header"`
	Body   int64               `json:"body"`   // bytes
	Local  string              `json:"local"`  // the origin's address
	Remote string              `json:"remote"` // the client's address
}

// OriginConfig describes an Origin to add. Zero addresses are left out.
type OriginConfig struct {
	Names  []string
	V4, V6 netip.Addr
	HTTP   []uint16 // default 80
	HTTPS  []uint16 // default 443
	// Handler answers in the place of what the type Origin says; nil: nothing else does.
	Handler http.Handler
}

// Hits counts the requests that reached the origin.
func (o *Origin) Hits() int { return int(o.hits.Load()) }

// Conns counts the connections that reached the origin, with or without a request.
func (o *Origin) Conns() int { return int(o.conns.Load()) }

// Release lets every request on /hold go, those that wait and those to come.
func (o *Origin) Release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.release:
	default:
		close(o.release)
	}
}

// Addrs are the origin's addresses.
func (o *Origin) Addrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{o.V4, o.V6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// AddName gives the internet a name with addresses behind it (TTL one
// minute), and nothing that listens there. Zero addresses are left out.
func (w *World) AddName(name string, v4, v6 netip.Addr) error {
	for _, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			if err := w.Net.Do(func() error { return addHost(a) }); err != nil {
				return err
			}
		}
	}
	w.publish(name, v4, v6)
	return nil
}

// AddOrigin gives the internet one more web server, with addresses,
// certificate and DNS records (TTL one minute).
func (w *World) AddOrigin(c OriginConfig) (*Origin, error) {
	if len(c.Names) == 0 {
		return nil, errors.New("world: an origin needs a name")
	}
	if c.HTTP == nil {
		c.HTTP = []uint16{80}
	}
	if c.HTTPS == nil {
		c.HTTPS = []uint16{443}
	}
	o := &Origin{
		Name: c.Names[0], Names: c.Names, V4: c.V4, V6: c.V6,
		flaky: map[string]int{}, release: make(chan struct{}), handler: c.Handler,
	}
	cert, err := w.ca.issue(c.Names, o.Addrs())
	if err != nil {
		return nil, err
	}
	w.onClose(o.close)
	for _, a := range o.Addrs() {
		if err := w.Net.Do(func() error { return addHost(a) }); err != nil {
			return nil, err
		}
		for _, port := range c.HTTP {
			if err := o.serve(w.Net, netip.AddrPortFrom(a, port), nil); err != nil {
				return nil, err
			}
		}
		for _, port := range c.HTTPS {
			if err := o.serve(w.Net, netip.AddrPortFrom(a, port), &tls.Config{Certificates: []tls.Certificate{cert}}); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range c.Names {
		w.publish(name, c.V4, c.V6)
	}
	return o, nil
}

// serve starts one listener: HTTP/1 and HTTP/2, in the clear when conf is nil.
func (o *Origin) serve(ns *Netns, addr netip.AddrPort, conf *tls.Config) error {
	ln, err := ns.Listen(addr)
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler:           o,
		TLSConfig:         conf,
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // refused handshakes are everyday here
		Protocols:         new(http.Protocols),
		ConnState:         o.count,
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(conf == nil)
	o.servers = append(o.servers, s)
	o.running.Go(func() {
		if conf == nil {
			_ = s.Serve(ln) // ErrServerClosed
			return
		}
		_ = s.ServeTLS(ln, "", "")
	})
	return nil
}

// count follows connections. Serve calls it for a new one before it can
// return, so close never waits too early.
func (o *Origin) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		o.conns.Add(1)
		o.running.Add(1)
	case http.StateClosed, http.StateHijacked:
		o.running.Done()
	}
}

// close ends all connections and waits for the handlers.
func (o *Origin) close() {
	o.Release()
	for _, s := range o.servers {
		_ = s.Close() // the listeners' errors change nothing
	}
	o.running.Wait()
}

// ServeHTTP answers as the type's comment says.
func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.hits.Add(1)
	if o.handler != nil {
		o.handler.ServeHTTP(w, r)
		return
	}
	w.Header().Set("X-Origin", o.Name)
	path := r.URL.Path
	switch {
	case strings.HasPrefix(path, "/status/"):
		status, err := strconv.Atoi(strings.TrimPrefix(path, "/status/"))
		if err != nil || status < 200 || status > 599 {
			status = http.StatusBadRequest
		}
		w.WriteHeader(status)
	case strings.HasPrefix(path, "/bytes/"):
		o.bytes(w, strings.TrimPrefix(path, "/bytes/"))
	case path == "/slow":
		if wait(r.Context(), duration(r, "d", 10*time.Second)) {
			o.echo(w, r)
		}
	case path == "/hold":
		select {
		case <-o.release:
			o.echo(w, r)
		case <-r.Context().Done():
		}
	case path == "/sse":
		o.sse(w, r)
	case path == "/flaky":
		o.serveFlaky(w, r)
	case path == "/drop":
		panic(http.ErrAbortHandler)
	case strings.HasSuffix(path, "/ntlm"):
		if strings.HasPrefix(r.Header.Get("Authorization"), "NTLM ") {
			o.logins.Store(r.RemoteAddr, true)
		}
		if _, ok := o.logins.Load(r.RemoteAddr); !ok {
			w.Header().Set("WWW-Authenticate", "NTLM")
			w.WriteHeader(http.StatusUnauthorized)
		}
	case path == "/upgrade" && strings.EqualFold(r.Header.Get("Upgrade"), "echo"):
		o.upgrade(w)
	default:
		o.echo(w, r)
	}
}

// echo answers with the request as JSON.
func (o *Origin) echo(w http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body) // a cut body is told by its size
	e := Echo{
		Origin: o.Name, Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery,
		Proto: r.Proto, Header: r.Header, Body: n, Remote: r.RemoteAddr,
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		e.Local = local.String()
	}
	if r.TLS != nil {
		e.SNI = r.TLS.ServerName
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(e) // the client may be gone
}

// bytes sends n zero bytes.
func (o *Origin) bytes(w http.ResponseWriter, text string) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > maxBytes {
		http.Error(w, "bad size", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", text)
	w.Header().Set("Content-Type", "application/octet-stream")
	block := make([]byte, 64<<10)
	for n > 0 {
		k, err := w.Write(block[:min(n, int64(len(block)))])
		if err != nil {
			return
		}
		n -= int64(k)
	}
}

// sse sends numbered events and flushes each.
func (o *Origin) sse(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil {
		n = 3
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	for i := range n {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil || rc.Flush() != nil {
			return
		}
		if !wait(r.Context(), duration(r, "d", 10*time.Millisecond)) {
			return
		}
	}
}

// serveFlaky fails the first n requests of a key.
func (o *Origin) serveFlaky(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil {
		n = 1
	}
	o.mu.Lock()
	o.flaky[r.FormValue("key")]++
	seen := o.flaky[r.FormValue("key")]
	o.mu.Unlock()
	w.Header().Set("X-Attempt", strconv.Itoa(seen))
	if seen <= n {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	o.echo(w, r)
}

// upgrade answers 101 and echoes what comes until the client closes.
func (o *Origin) upgrade(w http.ResponseWriter) {
	o.running.Add(1) // hijacking takes the connection's own count away
	defer o.running.Done()
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "no upgrade here", http.StatusNotImplemented)
		return
	}
	defer func() { _ = conn.Close() }()
	// The server forgets hijacked connections, so Close would not end this one.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-o.release:
			_ = conn.Close()
		case <-stop:
		}
	}()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err == nil {
		_, _ = io.Copy(conn, rw) // until either side closes
	}
}

// duration reads a form value; def if there is none.
func duration(r *http.Request, key string, def time.Duration) time.Duration {
	if d, err := time.ParseDuration(r.FormValue(key)); err == nil {
		return d
	}
	return def
}

// wait says whether the time passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
