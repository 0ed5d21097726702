// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/policy"
)

// A forwarder of the node (dnsmasq, unbound, systemd-resolved) may be captured
// itself. Its questions come here as everybody's do, and were they sent to the
// server that egressd trusts, which is the forwarder, it would wait for itself.
//
// So a process that listens at a trusted server's address is taken for what it
// is: its questions go where it sent them. That gives it nothing new. What it
// answers is believed, whoever it has asked.

// route lists the servers to ask for c; empty: it would ask itself.
func (s *Server) route(c Client) []netip.AddrPort {
	all := trusted(s.servers(), c.Server)
	others := slices.DeleteFunc(slices.Clone(all), func(a netip.AddrPort) bool { return s.serves(c, a) })
	switch {
	case len(others) == len(all):
		return all
	case s.serves(c, c.Server):
		return others
	}
	return []netip.AddrPort{netip.AddrPortFrom(c.Server.Addr().Unmap(), c.Server.Port())}
}

// account is what a query of c counts for. The questions of a forwarder are
// those of others, who wait for it meanwhile: under one bound they would keep
// each other from being answered.
func (s *Server) account(c Client) string {
	if c.Probe != nil {
		return "\x00probe" // nobody's name
	}
	if slices.ContainsFunc(s.servers(), func(a netip.AddrPort) bool { return s.serves(c, a) }) {
		return c.Workload + "\x00forwarder"
	}
	return c.Workload
}

// looped answers a forwarder that asks itself, and nobody else is there to be
// asked.
func (s *Server) looped(c Client, t policy.Transport, req *dns.Msg, d decision) *dns.Msg {
	s.stats.add(cLoop)
	s.denied(c, t, req.Question[0].Name, decision{host: d.host, reason: policy.ReasonLoop})
	if s.warned.allow(s.now()) {
		s.log.Warn("a DNS server asks itself, so the name can't be resolved; give it a server to forward to, or give egressd one with --dns-server",
			"command", c.Process.Command, "pid", c.Process.PID, "asked", c.Server, "name", d.name)
	}
	m := answerTo(req, dns.RcodeServerFailure)
	extend(m, req, dns.ExtendedErrorCodeOther, "egressd: "+string(policy.ReasonLoop))
	return m
}

// waiting are those who wait for the answer to a question. When none comes,
// and one of them was sent to a server that it did not address, it may be that
// server: behind address translation or in another network namespace, where
// route does not see it.
type waiting struct {
	mu sync.Mutex
	by map[dns.Question][]Client
}

// maxWaiting bounds the clients that are remembered of a question.
const maxWaiting = 8

func newWaiting() *waiting { return &waiting{by: map[dns.Question][]Client{}} }

// enter adds c; the function that it returns takes it out again.
func (w *waiting) enter(q dns.Question, c Client) (leave func()) {
	q.Name = canonical(q.Name)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.by[q]) >= maxWaiting {
		return func() {}
	}
	w.by[q] = append(w.by[q], c)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		all := w.by[q]
		if i := slices.Index(all, c); i >= 0 {
			all = slices.Concat(all[:i], all[i+1:])
		}
		if w.by[q] = all; len(all) == 0 {
			delete(w.by, q)
		}
	}
}

// others are processes other than c that wait for the same.
func (w *waiting) others(q dns.Question, c Client) (out []Client) {
	q.Name = canonical(q.Name)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range w.by[q] {
		if other.Process.PID != c.Process.PID {
			out = append(out, other)
		}
	}
	return out
}

// suspectLoop says who may have waited for itself after servers gave c no
// answer.
func (s *Server) suspectLoop(q dns.Question, c Client, servers []netip.AddrPort) {
	sent := !slices.Contains(servers, c.Server) // to another server than it addressed
	for _, other := range s.waiting.others(q, c) {
		// Whoever gives up first sees the other one.
		suspect := other
		switch otherSent := !slices.Contains(servers, other.Server); {
		case sent == otherSent:
			continue
		case sent:
			suspect = c
		}
		s.stats.add(cLoopSuspected)
		if s.warned.allow(s.now()) {
			s.log.Warn("no DNS server answered, and meanwhile another process asked the same; if it is the server that was asked, put it into --node-services, or give egressd its server with --dns-server",
				"name", strings.TrimSuffix(q.Name, "."), "servers", fmt.Sprint(servers),
				"command", suspect.Process.Command, "pid", suspect.Process.PID, "workload", suspect.Workload, "asked", suspect.Server)
		}
		return
	}
}

// seldom lets one through in a minute.
type seldom struct {
	mu   sync.Mutex
	last time.Time
}

func (s *seldom) allow(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() && now.Sub(s.last) < time.Minute && !now.Before(s.last) {
		return false
	}
	s.last = now
	return true
}
