// SPDX-License-Identifier: Apache-2.0

// Command probe is a static client for the end-to-end tests. It makes one
// attempt and prints what happened as one JSON object:
//
//	get URL [CAFILE]           HTTP GET by name, with the pure-Go resolver
//	lookup NAME                the pure-Go resolver's answer
//	dns NET SERVER NAME TYPE   NET: udp, tcp, sendto (an unconnected socket)
//	dial ADDR                  connects, says whom it is connected to
//	send ADDR                  connects, sends its standard input, reads to the end
//	tls ADDR SNI CAFILE [SPLIT] a TLS request, the hello in pieces of SPLIT bytes
//	udp ADDR TEXT              sends a datagram, waits for the echo
//	listen NET ADDR            binds
//	session ADDR               connects, prints "open", then passes bytes both ways
//	knock OPEN ADDR...         until its input ends, over and over: connects to OPEN,
//	                           and tries to reach the others by TCP and UDP
//	busy SERVER NAME HOST ADDR...  until its input ends, over and over: asks for NAME
//	                           over UDP and TCP, and requests http://HOST/ at each ADDR
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// timeout bounds the attempt; a client that hangs is a failed test.
const timeout = 15 * time.Second

// result is the output.
type result struct {
	Error  string        `json:"error,omitempty"`
	Errno  syscall.Errno `json:"errno,omitempty"`
	Status int           `json:"status,omitempty"`
	Text   string        `json:"text,omitempty"`
	Peer   string        `json:"peer,omitempty"`
	Rcode  string        `json:"rcode,omitempty"`
	EDE    int           `json:"ede"` // -1: none
	Addrs  []string      `json:"addrs,omitempty"`
	Rounds int           `json:"rounds,omitempty"`
	Good   int           `json:"good,omitempty"` // attempts that went through
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	r := result{EDE: -1}
	if err := run(ctx, &r, os.Args[1], os.Args[2:]); err != nil {
		r.Error = err.Error()
		errors.As(err, &r.Errno)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, r *result, verb string, args []string) error {
	switch verb {
	case "get":
		return get(ctx, r, args)
	case "lookup":
		addrs, err := net.DefaultResolver.LookupHost(ctx, args[0])
		r.Addrs = addrs
		return err
	case "dns":
		return ask(ctx, r, args[0], args[1], args[2], args[3])
	case "dial":
		c, err := dial(ctx, "tcp", args[0])
		if err != nil {
			return err
		}
		r.Peer = c.RemoteAddr().String()
		return c.Close()
	case "send":
		return send(ctx, r, args[0])
	case "tls":
		return overTLS(ctx, r, args)
	case "udp":
		return datagram(ctx, r, args[0], args[1])
	case "listen":
		return listen(ctx, args[0], args[1])
	case "session":
		return session(ctx, args[0])
	case "knock":
		return knock(r, args[0], args[1:])
	case "busy":
		return busy(r, args[0], args[1], args[2], args[3:])
	}
	return fmt.Errorf("no such verb %q", verb)
}

// dial connects to an address, never to a name.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	return c, c.SetDeadline(deadline)
}

func roots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool, nil
}

func get(ctx context.Context, r *result, args []string) error {
	t := &http.Transport{TLSClientConfig: &tls.Config{}}
	if len(args) > 1 {
		pool, err := roots(args[1])
		if err != nil {
			return err
		}
		t.TLSClientConfig.RootCAs = pool
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.Status = resp.StatusCode
	b, err := io.ReadAll(resp.Body)
	r.Text = string(b)
	return err
}

func ask(ctx context.Context, r *result, network, server, name, typ string) error {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[typ])
	m.SetEdns0(1232, false)
	var reply *dns.Msg
	var err error
	if network == "sendto" {
		reply, err = sendto(ctx, m, server)
	} else {
		reply, _, err = (&dns.Client{Net: network, Timeout: 5 * time.Second}).ExchangeContext(ctx, m, server)
	}
	if err != nil {
		return err
	}
	r.Rcode = dns.RcodeToString[reply.Rcode]
	for _, rr := range reply.Answer {
		r.Addrs = append(r.Addrs, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	if opt := reply.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				r.EDE = int(e.InfoCode)
			}
		}
	}
	return nil
}

// sendto asks over a socket that is not connected, and wants the answer to
// come from the server that was asked.
func sendto(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	to, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		return nil, err
	}
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", ":0")
	if err != nil {
		return nil, err
	}
	defer pc.Close()
	if err := pc.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	raw, err := m.Pack()
	if err != nil {
		return nil, err
	}
	if _, err := pc.WriteTo(raw, to); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	n, from, err := pc.ReadFrom(buf)
	if err != nil {
		return nil, err
	}
	if got := from.(*net.UDPAddr); !got.IP.Equal(to.IP) || got.Port != to.Port {
		return nil, fmt.Errorf("asked %s, answered by %s", to, from)
	}
	reply := new(dns.Msg)
	return reply, reply.Unpack(buf[:n])
}

func send(ctx context.Context, r *result, addr string) error {
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	r.Peer = c.RemoteAddr().String()
	if _, err := io.Copy(c, os.Stdin); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	r.Text = string(b)
	return err
}

// pieces writes in small parts, each a segment of its own.
type pieces struct {
	net.Conn
	size int
}

func (p pieces) Write(b []byte) (int, error) {
	for i := 0; i < len(b); i += p.size {
		if n, err := p.Conn.Write(b[i:min(len(b), i+p.size)]); err != nil {
			return i + n, err
		}
	}
	return len(b), nil
}

func overTLS(ctx context.Context, r *result, args []string) error {
	c, err := dial(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	r.Peer = c.RemoteAddr().String()
	// Without a name there is no SNI, and nothing to verify.
	conf := &tls.Config{ServerName: args[1], InsecureSkipVerify: args[1] == ""}
	if conf.RootCAs, err = roots(args[2]); err != nil {
		return err
	}
	if len(args) > 3 {
		size, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		c = pieces{c, size}
	}
	t := tls.Client(c, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(t, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", args[1]); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(t), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.Status = resp.StatusCode
	b, err := io.ReadAll(resp.Body)
	r.Text = string(b)
	return err
}

func datagram(ctx context.Context, r *result, addr, text string) error {
	c, err := dial(ctx, "udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	r.Text = string(buf[:n])
	return err
}

func listen(ctx context.Context, network, addr string) error {
	if strings.HasPrefix(network, "udp") {
		c, err := (&net.ListenConfig{}).ListenPacket(ctx, network, addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, network, addr)
	if err != nil {
		return err
	}
	return ln.Close()
}

// session sends standard input and prints what comes back.
func session(ctx context.Context, addr string) error {
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	// The test ends the session by closing the pipe.
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	fmt.Println("open")
	go func() {
		_, _ = io.Copy(c, os.Stdin) // the test closes the pipe, or the other end is gone
		_ = c.Close()
	}()
	_, err = io.Copy(os.Stdout, c)
	return err
}
