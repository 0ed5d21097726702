// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// What retries do when the rule doesn't say.
const (
	defaultAttempts = 2 // more attempts, as in Istio
	defaultBackoff  = 25 * time.Millisecond
	maxBackoffTimes = 10 // the longest wait, in base intervals (Envoy)
	// maxDrain is how much of a response that is retried is read so that its
	// connection can be used again, in bytes, and drainTime for how long.
	maxDrain  = 64 << 10
	drainTime = 100 * time.Millisecond
)

// safeRetries returns what happens without a retry policy: another attempt only
// when nothing was sent. Istio's default also retries requests that an
// upstream may have acted on.
func safeRetries() *policy.Retries {
	return &policy.Retries{Attempts: defaultAttempts, On: []string{"connect-failure"}}
}

// asked is what is retried where a rule asks for retries and does not say on
// what (istio pilot/pkg/networking/core/route/retry defaultRetryOn).
var asked = []string{"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"}

// retryPolicy returns the rule's retries, the mesh's, or the safe default.
func (x *exchange) retryPolicy() *policy.Retries {
	p := x.decision.RetryPolicy()
	if p == nil {
		return x.core.safeRetries
	}
	if x.body != nil && p.Attempts > 0 {
		x.body.Limit = message.MaxReplay
	}
	return p
}

// outcome is what is known of an attempt that failed.
type outcome struct {
	// sent: something of the request has left.
	sent bool
	// unprocessed: the upstream has not acted on it, and said so (RFC 9113, 8.7),
	// or got nothing of it.
	unprocessed bool
	// spent: see errSpent.
	spent bool
}

// outcomeOf judges how a request on c failed; wrote says that its head was written, or
// is about to be.
func outcomeOf(c *upstream.HTTPConn, err error, wrote bool) outcome {
	if c.Key.HTTP2 {
		refused := upstream.IsRefused(err) || upstream.IsGone(err)
		return outcome{sent: wrote && !refused, unprocessed: refused || !wrote}
	}
	sent := c.Sent.Load() > 0
	return outcome{sent: sent, unprocessed: !sent, spent: c.Used() && !c.HTTP1.Answered()}
}

// maxUnprocessed is how often a request is sent again that no upstream has acted
// on, beside the attempts of the retry policy.
const maxUnprocessed = 5

// roundTrip makes attempts until one is good, none is left, or the request
// can't be sent again.
func (x *exchange) roundTrip(u *policy.Upstream, out *message.Outgoing) (*message.Response, error) {
	p := x.retryPolicy()
	if p.Remote {
		x.previous = &balance.PreviousPriorities{}
	}
	fresh := x.needsFresh(u)
	budget := x.core.Retrying.Enter(u)
	defer budget.Leave()
	for try, free := 0, 0; ; {
		resp, o, err := x.attempt(u, out, p.PerTryTimeout, fresh)
		budget.Give()
		if x.life.why() != nil {
			return resp, err
		}
		again := retriable(p, resp, o.sent, err)
		if x.body != nil && !x.body.Replayable() {
			if again && try < p.Attempts && !x.body.Failed() {
				x.note("not tried again: too much of the request's body was sent to be kept")
			}
			return resp, err
		}
		switch {
		case try < p.Attempts && again:
			if !budget.Take() {
				x.flag(flow.FlagOverflow)
				x.note("not tried again: the retry budget is used up")
				return resp, err
			}
			try++
		case err != nil && free < maxUnprocessed && x.repeatable(u, o, err):
			free++
		default:
			if again && p.Attempts > 0 {
				x.flag(flow.FlagRetryLimit)
			}
			return resp, err
		}
		if !o.spent && !x.takeRetry() {
			return resp, err
		}
		fresh = fresh || o.spent
		if resp != nil {
			x.drain(resp)
		}
		x.retries++
		if !p.AnyHost && x.up.key != nil {
			x.tried = append(x.tried, *x.up.key)
		}
		if o.spent {
			continue // on a connection of its own, at once
		}
		if !sleep(x.context(), backoff(p.Backoff, try+free-1, x.core.o.Rand())) {
			return nil, x.life.why()
		}
	}
}

// drain ends a response that is retried: the retry does not wait for what is slow.
func (x *exchange) drain(resp *message.Response) {
	defer resp.Done()
	c := x.up.conn
	stop := resp.Done
	if c.HTTP1 != nil {
		stop = c.Interrupt
	}
	timer := time.AfterFunc(drainTime, stop)
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
	if !timer.Stop() {
		c.Finish() // it may be interrupted yet
	}
}

// note adds to the detail of the event.
func (x *exchange) note(text string) {
	if x.detail != "" {
		text = x.detail + "; " + text
	}
	x.detail = text
}

// flag adds a response flag to the event.
func (x *exchange) flag(f string) { x.flags = append(x.flags, f) }

// repeatable says whether a request that failed may be sent again whatever the
// retry policy: nothing has acted on it, or the connection was not its client's
// own, so that the client can't know what its end means, and the request may be
// repeated (RFC 9110, 9.2.2).
func (x *exchange) repeatable(u *policy.Upstream, o outcome, err error) bool {
	if upstream.IsDialError(err) || dial.Refused(err) || limits.IsExceeded(err) || errors.Is(err, errPerTry) {
		return false // the retry policy's
	}
	return o.unprocessed || o.spent && !x.own(u) && x.idempotent()
}

// own says whether the upstream connections for u are the client's own, and end
// with its connection.
func (x *exchange) own(u *policy.Upstream) bool {
	_, shared := x.conn.Ups.Sharing(u)
	return x.r.ProtoMajor == 1 && !shared
}

func (x *exchange) idempotent() bool {
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return x.body == nil
	}
	return false
}

// needsFresh says whether a request must not use a connection that others have
// used: the first one of a client, who would not know what it means when such a
// connection ends, unless it can be repeated.
func (x *exchange) needsFresh(u *policy.Upstream) bool {
	_, shared := x.conn.Ups.Sharing(u)
	return shared && x.number == 1 && !x.idempotent()
}

// backoff is the fully jittered exponential wait after attempt try (0, 1...).
func backoff(base time.Duration, try int, r uint64) time.Duration {
	if base <= 0 {
		base = defaultBackoff
	}
	most := base * time.Duration(min(1<<min(try, 10), maxBackoffTimes))
	return time.Duration(r % uint64(most))
}

// retriable says whether the outcome of an attempt is one that p names
// (Envoy's x-envoy-retry-on and x-envoy-retry-grpc-on).
func retriable(p *policy.Retries, resp *message.Response, sent bool, err error) bool {
	if dial.Refused(err) || limits.IsExceeded(err) {
		return false
	}
	on := p.On
	if len(on) == 0 {
		on = asked
	}
	if err == nil && resp.Header.Has("X-Envoy-Ratelimited") {
		return slices.Contains(on, "envoy-ratelimited") // whatever else there is
	}
	for _, token := range on {
		if err != nil && retriableError(token, sent, err) || err == nil && retriableResponse(token, p.Codes, resp) {
			return true
		}
	}
	return false
}

func retriableError(token string, sent bool, err error) bool {
	switch token {
	case "5xx", "gateway-error", "reset":
		return true
	case "connect-failure":
		return isConnectFailure(err)
	case "reset-before-request":
		return !sent
	case "refused-stream":
		return upstream.IsRefused(err)
	}
	return false
}

func retriableResponse(token string, codes []int, resp *message.Response) bool {
	status := resp.StatusCode
	switch token {
	case "5xx":
		return status >= 500 && status <= 599
	case "gateway-error":
		return status >= 502 && status <= 504
	case "retriable-4xx":
		return status == http.StatusConflict
	case "retriable-status-codes":
		return slices.Contains(codes, status)
	}
	code := grpcToken(token)
	return code != "" && resp.Header.Get("Grpc-Status") == code
}

// grpcToken is the gRPC status that a retryOn token names, "" for none.
func grpcToken(token string) string {
	switch token {
	case "cancelled":
		return "1"
	case "deadline-exceeded":
		return "4"
	case "resource-exhausted":
		return "8"
	case "internal":
		return "13"
	case "unavailable":
		return "14"
	}
	return ""
}

func isConnectFailure(err error) bool {
	return upstream.IsDialError(err) && !dial.Refused(err) && !limits.IsExceeded(err)
}
