// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// hashKey is what of a request a consistent hash is made of, as Envoy's hash
// policies are: nothing when the request does not have it, which leaves the choice
// to chance. nil: nothing is hashed.
func (x *exchange) hashKey(u *policy.Upstream, h *field.List) func(*policy.ConsistentHash) balance.Hash {
	if t := u.Traffic; t == nil || t.LoadBalancer == nil || t.LoadBalancer.Hash == nil {
		return nil
	}
	return func(c *policy.ConsistentHash) balance.Hash {
		switch {
		case c.Header != "":
			if strings.EqualFold(c.Header, "host") || strings.EqualFold(c.Header, ":authority") {
				return balance.HashOf(x.req.Authority)
			}
			if v, ok := h.Joined(c.Header); ok {
				return balance.HashOf(v)
			}
		case c.Query != "":
			if v, ok := x.req.Query[c.Query]; ok {
				return balance.HashOf(v[0])
			}
		case c.Cookie != nil:
			return x.cookieHash(h, c.Cookie)
		case c.SourceIP:
			return x.conn.Ups.SourceHash(c)
		}
		return balance.Hash{}
	}
}

// cookieHash is the hash of a cookie. One that is missing is made, from the
// addresses of the connection as in Envoy, so that requests which race on it get
// the same.
func (x *exchange) cookieHash(h *field.List, c *policy.HashCookie) balance.Hash {
	if have, err := (&http.Request{Header: http.Header{"Cookie": h.Values("Cookie")}}).Cookie(c.Name); err == nil {
		return balance.HashOf(have.Value)
	}
	if c.TTL == nil {
		return balance.Hash{}
	}
	sum := balance.HashOf(x.conn.Info.Src.String() + x.conn.Info.Dst.String()).Sum
	value := strings.Repeat("0", 16-len(strconv.FormatUint(sum, 16))) + strconv.FormatUint(sum, 16)
	x.cookie = cookieText(c, value)
	return balance.HashOf(value)
}

// cookieText is the Set-Cookie of a cookie (Envoy's Http::Utility::makeSetCookieValue).
func cookieText(c *policy.HashCookie, value string) string {
	out := c.Name + `="` + value + `"`
	if *c.TTL > 0 {
		out += "; Max-Age=" + strconv.FormatInt(int64(c.TTL.Seconds()), 10)
	}
	if c.Path != "" {
		out += "; Path=" + c.Path
	}
	for _, a := range c.Attributes {
		out += "; " + a.Name
		if a.Value != "" {
			out += "=" + a.Value
		}
	}
	return out + "; HttpOnly"
}

// setCookie adds the cookie that was made for the client.
func (x *exchange) setCookie(h *field.List) {
	if x.cookie != "" {
		h.Add("Set-Cookie", x.cookie)
	}
}

// takeRetry says whether another attempt may be made, as far as the limits of the
// service go.
func (x *exchange) takeRetry() bool {
	of := x.on.Balanced
	if of == nil || of == x.retrying {
		return true
	}
	if !of.Take(balance.Retries) {
		return false
	}
	x.giveRetry()
	x.retrying = of
	return true
}

func (x *exchange) giveRetry() {
	if x.retrying != nil {
		x.retrying.Give(balance.Retries)
		x.retrying = nil
	}
}

// report tells outlier detection how an attempt went. What the client or egressd
// ended says nothing of the endpoint, and neither does a connection that had been
// idle and was closed.
func (x *exchange) report(u *policy.Upstream, resp *message.Response, o outcome, err error) {
	switch cause := x.life.why(); {
	case err == nil:
		x.on.Picked.Report(resultOf(u, resp))
	case errors.Is(err, errRouteTimeout), errors.Is(err, errPerTry), errors.Is(cause, errRouteTimeout):
		x.on.Picked.Report(balance.FailedLocally)
	case cause != nil, o.spent, upstream.IsDialError(err) && !isConnectFailure(err), x.body != nil && x.body.Failed():
	default:
		x.on.Picked.Report(balance.FailedLocally)
	}
}

// resultOf judges an answer; one of gRPC by its status, as far as it is in the head
// (Envoy: Grpc::Utility::grpcToHttpStatus).
func resultOf(u *policy.Upstream, resp *message.Response) balance.RequestResult {
	status := resp.StatusCode
	switch resp.Header.Get("Grpc-Status") {
	case "2", "13", "15": // unknown, internal, data loss
		status = http.StatusInternalServerError
	case "4": // deadline exceeded
		status = http.StatusGatewayTimeout
	case "12": // unimplemented
		status = http.StatusNotImplemented
	case "14": // unavailable
		status = http.StatusServiceUnavailable
	}
	failed := status >= 500 && status <= 599
	if t := u.Traffic; t != nil && t.Outlier != nil && len(t.Outlier.Codes) > 0 {
		failed = false
		for _, c := range t.Outlier.Codes {
			failed = failed || int(c) == status
		}
	}
	switch {
	case !failed:
		return balance.Good
	case status >= http.StatusBadGateway && status <= http.StatusGatewayTimeout:
		return balance.FailedGateway
	}
	return balance.Failed
}
