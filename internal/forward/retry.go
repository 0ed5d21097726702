// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/policy"
)

// What retries do when the rule doesn't say.
const (
	defaultAttempts = 2 // more attempts, as in Istio
	defaultBackoff  = 25 * time.Millisecond
	maxBackoffTimes = 10 // the longest wait, in base intervals (Envoy)
	// maxDrain is how much of a response that is retried is read so that its
	// connection can be used again, in bytes.
	maxDrain = 64 << 10
)

// safeRetries returns what happens without a retry policy: another attempt only
// when nothing was sent. Istio's default also retries requests that an
// upstream may have acted on.
func safeRetries() *policy.Retries {
	return &policy.Retries{Attempts: defaultAttempts, On: []string{"connect-failure"}}
}

// retryPolicy returns the rule's retries, the mesh's, or the safe default.
func (x *exchange) retryPolicy() *policy.Retries {
	if p := x.decision.RetryPolicy(); p != nil {
		return p
	}
	return safeRetries()
}

// roundTrip makes attempts until one is good, none is left, or the request
// can't be sent again.
func (x *exchange) roundTrip(u *policy.Upstream, out *http.Request) (*http.Response, error) {
	p := x.retryPolicy()
	for try := 0; ; try++ {
		resp, sent, err := x.attempt(u, out, p.PerTryTimeout)
		if x.ctx.Err() != nil || try >= p.Attempts || !retriable(p, resp, sent, err) {
			return resp, err
		}
		if x.body != nil && !x.body.replayable() {
			return resp, err
		}
		if resp != nil {
			_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
			resp.Body.Close()
		}
		x.retries++
		if !sleep(x.ctx, backoff(p.Backoff, try, x.core.o.Rand())) {
			return nil, x.ctx.Err()
		}
	}
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
func retriable(p *policy.Retries, resp *http.Response, sent bool, err error) bool {
	if isRefusal(err) || isLimit(err) {
		return false
	}
	if len(p.On) == 0 {
		return err != nil && (isConnectFailure(err) || isRefusedStream(err)) ||
			err == nil && slices.Contains(p.Codes, resp.StatusCode)
	}
	for _, token := range p.On {
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
		return isRefusedStream(err)
	}
	return false
}

func retriableResponse(token string, codes []int, resp *http.Response) bool {
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
	case "envoy-ratelimited":
		return resp.Header.Get("X-Envoy-Ratelimited") != ""
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
	return isDialError(err) && !isRefusal(err) && !isLimit(err)
}

// isRefusedStream tells by the text: net/http's type is its own.
func isRefusedStream(err error) bool {
	return strings.Contains(err.Error(), "REFUSED_STREAM")
}
