// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// ErrUpstream: no trusted server gave an answer.
var ErrUpstream = errors.New("no answer from any DNS server")

const (
	// upstreamSize is the UDP payload size that we offer upstream: what fits
	// into any path's MTU (dnsflagday.net/2020).
	upstreamSize = 1232
	// maxMessage is the longest DNS message (RFC 1035, section 4.2.2).
	maxMessage = 1<<16 - 1
)

// upstream asks trusted servers. Each query has its own socket, and so a
// source port that cannot be guessed, and its own id.
type upstream struct {
	// ask is askServer; tests have others.
	ask    func(context.Context, *dns.Msg, netip.AddrPort) (*dns.Msg, error)
	set    atomic.Pointer[Upstreams]
	health health
	stats  *stats
	log    *slog.Logger
	warned seldom // of what the node lacks
}

// Upstreams are the trusted servers and how they are asked.
type Upstreams struct {
	// Servers, the preferred one first.
	Servers []netip.AddrPort
	// Search are the suffixes that stub resolvers append (resolv.conf's
	// search). What is not a name is ignored.
	Search []string
	// Timeout is how long is waited for an answer before a server is asked
	// again (2 s), Attempts how often it is asked (2). A question ends after
	// the product of both.
	Timeout  time.Duration
	Attempts int
}

// Defaults of Upstreams.
const (
	DefaultTimeout  = 2 * time.Second
	DefaultAttempts = 2
)

// SetUpstreams changes the servers. Questions that are under way end with those
// that they began with.
func (s *Server) SetUpstreams(u Upstreams) {
	setDefault(&u.Timeout, DefaultTimeout)
	setDefault(&u.Attempts, DefaultAttempts)
	u.Search = suffixes(u.Search)
	s.upstream.set.Store(&u)
}

func (s *Server) servers() []netip.AddrPort { return s.upstream.set.Load().Servers }

// newQuery is the query that goes upstream: of the client's own only the
// question, DO, CD and AD are left. Client subnets, cookies and other options
// say more about the client than the answer needs, and so does the case of the
// letters.
func newQuery(q dns.Question, from *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired = true
	q.Name = canonical(q.Name)
	m.Question = []dns.Question{q}
	do := false
	if from != nil {
		m.CheckingDisabled, m.AuthenticatedData = from.CheckingDisabled, from.AuthenticatedData
		if opt := from.IsEdns0(); opt != nil {
			do = opt.Do()
		}
	}
	m.SetEdns0(upstreamSize, do)
	return m
}

// askServer is one attempt at one server: UDP, and TCP when that was truncated.
// It ends with ctx.
func (u *upstream) askServer(ctx context.Context, q *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	q = q.Copy()
	q.Id = dns.Id()
	wire, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack query: %w", err)
	}
	rep, truncated, err := u.askUDP(ctx, q, wire, server)
	if err != nil || !truncated {
		return rep, err
	}
	u.stats.add(cUpstreamTCP)
	if rep, err = u.askTCP(ctx, q, wire, server); err != nil && !localFailure(err) {
		err = fmt.Errorf("%w: %w", errTCP, err)
	}
	return rep, err
}

func (u *upstream) askUDP(ctx context.Context, q *dns.Msg, wire []byte, server netip.AddrPort) (rep *dns.Msg, truncated bool, err error) {
	c, stop, err := u.dial(ctx, "udp", server)
	if err != nil {
		return nil, false, err
	}
	defer stop()
	if _, err := c.Write(wire); err != nil {
		return nil, false, err
	}
	buf := make([]byte, maxReply) // more than upstreamSize, which is what was offered
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, false, err // refused, or the deadline
		}
		rep, truncated, ok := match(q, buf[:n])
		if ok {
			return rep, truncated, nil
		}
		// Somebody guesses, or a late answer to another socket's query.
		u.stats.add(cUpstreamIgnored)
	}
}

func (u *upstream) askTCP(ctx context.Context, q *dns.Msg, wire []byte, server netip.AddrPort) (*dns.Msg, error) {
	c, stop, err := u.dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := writeFrame(c, wire); err != nil {
		return nil, err
	}
	buf := make([]byte, maxMessage)
	for {
		raw, err := readFrame(c, buf)
		if err != nil {
			return nil, err
		}
		if rep, truncated, ok := match(q, raw); ok && !truncated {
			return rep, nil
		}
		u.stats.add(cUpstreamIgnored)
	}
}

// dial connects to server; reads and writes end with ctx. stop closes.
func (u *upstream) dial(ctx context.Context, network string, server netip.AddrPort) (c net.Conn, stop func(), err error) {
	var d net.Dialer
	c, err = d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			_ = c.Close()
			return nil, nil, err
		}
	}
	release := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return c, func() { release(); _ = c.Close() }, nil
}

// match says whether raw is the answer to q: its id, its question, a
// response. truncated comes with a nil rep when the rest cannot be parsed.
func match(q *dns.Msg, raw []byte) (rep *dns.Msg, truncated, ok bool) {
	if len(raw) < headerSize || binary.BigEndian.Uint16(raw) != q.Id || raw[2]&0x80 == 0 {
		return nil, false, false
	}
	rep = new(dns.Msg)
	err := rep.Unpack(raw)
	if len(rep.Question) != 1 || !sameQuestion(rep.Question[0], q.Question[0]) {
		return nil, false, false
	}
	if err != nil {
		return nil, true, rep.Truncated
	}
	return rep, rep.Truncated, rep.Opcode == dns.OpcodeQuery
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// trusted orders the servers for one query: the one that the application
// addressed first, if it is one of the trusted. A server that is not is never
// asked: a workload that could choose who answers for an allowed name would
// choose the addresses that the name opens.
func trusted(servers []netip.AddrPort, addressed netip.AddrPort) []netip.AddrPort {
	i := slices.Index(servers, netip.AddrPortFrom(addressed.Addr().Unmap(), addressed.Port()))
	if i <= 0 {
		return servers
	}
	return slices.Concat(servers[i:i+1], servers[:i], servers[i+1:])
}

// errLong: a message that is longer than there is room.
var errLong = errors.New("message too long")

// readFrame reads one message with its two-byte length (RFC 1035, section
// 4.2.2) into buf. The error is errLong when it does not fit.
func readFrame(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n > len(buf) {
		return nil, errLong
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// writeFrame writes one message with its length in one write, so that it
// leaves in one segment.
func writeFrame(w io.Writer, msg []byte) error {
	if len(msg) > maxMessage {
		return errLong
	}
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	_, err := w.Write(append(frame, msg...))
	return err
}
