// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// maxAsked bounds the servers that one question is sent to, as resolv.conf(5)
// does (MAXNS).
const maxAsked = 3

// exchange asks the servers until one has an answer. The first has the question
// alone for a little more than it usually takes; then the next one is asked as
// well, and so on, and the first answer counts. A server that fails, or has no
// answer (SERVFAIL, REFUSED and the like), is followed by the next at once.
// Those that stay silent are asked again after the timeout, until all attempts
// are over; what comes late is taken, too.
//
// Of several answers NOERROR is taken before NXDOMAIN, for which servers that
// come first in the order are waited for a while longer, NXDOMAIN before any
// other code, and that before none. The error wraps ErrUpstream. account is who
// the wait counts for.
func (u *upstream) exchange(ctx context.Context, account string, q *dns.Msg, addrs []netip.AddrPort) (*dns.Msg, error) {
	if len(addrs) == 0 {
		u.stats.add(cNoUpstream)
		return nil, fmt.Errorf("%w: none is configured", ErrUpstream)
	}
	set := u.set.Load()
	known := u.health.of(addrs)
	for _, s := range u.health.due(known) {
		go u.probe(s, set.Timeout)
	}
	servers := order(known)
	servers = servers[:min(len(servers), maxAsked)]
	ctx, end := context.WithCancelCause(ctx)
	defer end(errOvertaken)
	ctx, cancel := context.WithTimeout(ctx, set.Timeout*time.Duration(set.Attempts))
	defer cancel()
	e := &exchange{
		u: u, account: account, q: q, set: set, asked: make([]asked, len(servers)),
		results: make(chan result, len(servers)*set.Attempts), again: time.NewTimer(0),
	}
	defer e.again.Stop()
	for i, s := range servers {
		e.asked[i].server = s
	}
	rep, err := e.run(ctx)
	if err != nil {
		u.stats.add(cUpstreamFailed)
		return nil, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	// Before end, so that who was overtaken is told so and not that time is up.
	end(errOvertaken)
	return rep, nil
}

// exchange is one question and those that are asked it.
type exchange struct {
	u       *upstream
	account string
	q       *dns.Msg
	set     *Upstreams
	asked   []asked
	results chan result
	again   *time.Timer // when somebody else is asked, or waiting ends
	poor    *dns.Msg    // the best of what is no answer
	nothing *dns.Msg    // an NXDOMAIN, while better servers may answer
	last    error
}

// asked is one server in an exchange.
type asked struct {
	*server
	times   int
	pending int
	over    bool // it failed, or has no answer
	at      time.Time
}

type result struct {
	i   int
	rep *dns.Msg
	err error
}

func (e *exchange) run(ctx context.Context) (*dns.Msg, error) {
	for {
		select {
		case r := <-e.results:
			if rep := e.take(r); rep != nil {
				return rep, nil
			}
			if !e.more(ctx) {
				return e.end()
			}
		case <-e.again.C:
			if e.nothing != nil {
				return e.nothing, nil
			}
			e.ask(ctx)
			if !e.more(ctx) {
				return e.end()
			}
		case <-ctx.Done():
			if e.last == nil {
				e.last = ctx.Err()
			}
			return e.end()
		}
	}
}

// end is the outcome when no server has an answer.
func (e *exchange) end() (*dns.Msg, error) {
	switch {
	case e.nothing != nil:
		return e.nothing, nil
	case e.poor != nil:
		return e.poor, nil
	}
	return nil, e.last
}

// take judges what one server said; not nil: that is the answer.
func (e *exchange) take(r result) *dns.Msg {
	a := &e.asked[r.i]
	a.pending--
	switch {
	case r.err != nil:
		a.over = true
		e.last = fmt.Errorf("%s: %w", a.addr, r.err)
		return nil
	case r.rep.Rcode == dns.RcodeSuccess:
		return r.rep
	case r.rep.Rcode == dns.RcodeNameError:
		if !e.better(r.i) {
			return r.rep
		}
		a.over = true
		if e.nothing == nil {
			e.nothing = r.rep
			e.again.Reset(min(maxHedge, e.set.Timeout))
		}
		return nil
	}
	a.over = true
	if e.poor == nil {
		e.poor = r.rep
	}
	return nil
}

// better says whether a server that is up and comes before i in the order may
// still answer: it may know a name that i does not.
func (e *exchange) better(i int) bool {
	for k := range e.asked[:i] {
		if a := &e.asked[k]; a.pending > 0 && !a.isDown() {
			return true
		}
	}
	return false
}

// more goes on after something was heard: a server that was not asked yet is
// asked at once when nobody is left who has it to himself. False: there is
// nothing to wait for.
func (e *exchange) more(ctx context.Context) bool {
	if e.nothing != nil {
		for i := range e.asked {
			if e.asked[i].pending > 0 && e.better(i+1) {
				return true // until again
			}
		}
		return false
	}
	for e.fresh() >= 0 && e.failedLast() {
		e.ask(ctx)
	}
	for i := range e.asked {
		if e.asked[i].pending > 0 {
			return true
		}
	}
	return false
}

// fresh is the next server that was not asked; -1: all were.
func (e *exchange) fresh() int {
	for i := range e.asked {
		if e.asked[i].times == 0 {
			return i
		}
	}
	return -1
}

// failedLast says that the server that was asked last is over.
func (e *exchange) failedLast() bool {
	i := e.fresh()
	return i == 0 || e.asked[i-1].over
}

// ask asks the next server, or the one that is silent for the timeout, and sets
// the time for the next one.
func (e *exchange) ask(ctx context.Context) {
	if i := e.fresh(); i >= 0 {
		e.start(ctx, i)
	} else {
		for i := range e.asked {
			if a := &e.asked[i]; !a.over && a.times < e.set.Attempts && time.Since(a.at) >= e.set.Timeout {
				e.start(ctx, i)
				break
			}
		}
	}
	if i := e.fresh(); i > 0 {
		e.again.Reset(min(e.asked[i-1].hedge(), e.set.Timeout))
		return
	}
	e.again.Stop()
	var next time.Time
	for i := range e.asked {
		a := &e.asked[i]
		if at := a.at.Add(e.set.Timeout); !a.over && a.times < e.set.Attempts && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if !next.IsZero() {
		e.again.Reset(time.Until(next))
	}
}

// start asks one server.
func (e *exchange) start(ctx context.Context, i int) {
	a := &e.asked[i]
	a.times++
	a.at = time.Now()
	if !a.acquire(e.account) {
		e.u.stats.add(cUpstreamBusy)
		a.over = true
		e.last = fmt.Errorf("%s: %w", a.addr, errBusy)
		return
	}
	a.pending++
	go func() {
		defer a.limit.release(e.account)
		rep, err := e.u.recovered(ctx, e.q, a.server)
		e.results <- result{i, rep, err}
	}()
}

// recovered is one attempt at one server, and what it says about the server.
func (u *upstream) recovered(ctx context.Context, q *dns.Msg, s *server) (rep *dns.Msg, err error) {
	defer func() {
		if r := recover(); r != nil { // as in reply: one query, not the node
			u.stats.add(cPanic)
			rep, err = nil, fmt.Errorf("panic: %v", r)
		}
	}()
	began := time.Now()
	rep, err = u.ask(ctx, q, s.addr)
	took := time.Since(began)
	cause := context.Cause(ctx)
	switch {
	case err == nil:
		u.health.markUp(s, took)
	case errors.Is(err, errTCP):
	case localFailure(err):
		u.local(err)
	case errors.Is(cause, errOvertaken):
		if took >= s.hedge() {
			u.health.markDown(s, errSilent)
		}
	case errors.Is(cause, context.Canceled): // nobody waits any more
	default:
		u.health.markDown(s, err)
	}
	return rep, err
}

// local says that this node lacks what a question or a connection needs.
func (u *upstream) local(err error) {
	u.stats.add(cLocalFailed)
	if u.warned.allow(u.health.now()) {
		u.log.Warn("egressd lacks descriptors, ports or memory for DNS, so names can't be resolved until there is more; raise its limit of open files (LimitNOFILE=) or find what takes them",
			"error", err)
	}
}
