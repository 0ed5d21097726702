// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"strings"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/forward/frames"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/policy"
)

// What net/http says where it has no type that others can see; TestTexts holds the Go
// version in use to them. They are compared whole: a GOAWAY's own words, which are
// the upstream's to choose, are in other errors.
const (
	textGoAway        = "http2: Transport received Server's graceful shutdown GOAWAY"
	textClosed        = "http2: client conn is closed"
	textUnusable      = "http2: client conn not usable"
	textUnestablished = "http2: client conn could not be established"
	textMore          = "net/http: server replied with more than declared Content-Length; truncated"
	// textFromPeer is the cause of a stream's error that the upstream sent.
	textFromPeer = "received from peer"
	// prefixConnection begins what is wrong with a whole connection.
	prefixConnection = "connection error: "
)

// streamError is the error of one HTTP/2 stream. net/http has its own type, which
// errors.As turns into this one.
func streamError(err error) (s http2.StreamError, ok bool) {
	ok = errors.As(err, &s)
	return s, ok
}

// IsRefused says whether the upstream has refused an HTTP/2 stream, so that it has not
// looked at the request (RFC 9113, 8.7).
func IsRefused(err error) bool {
	s, ok := streamError(err)
	return ok && s.Code == http2.ErrCodeRefusedStream && fromPeer(s)
}

func fromPeer(s http2.StreamError) bool { return s.Cause != nil && s.Cause.Error() == textFromPeer }

// IsGone says whether an HTTP/2 connection was being ended when the request came to
// it, so that the upstream has not looked at it (RFC 9113, 6.8).
func IsGone(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		switch err.Error() {
		case textGoAway, textClosed, textUnusable, textUnestablished:
			return true
		}
	}
	return false
}

// ClosedReason says how an upstream ended a request that it had: by a reset of
// the HTTP/2 stream, with the connection, or by what is no HTTP/2.
func ClosedReason(err error) policy.Reason {
	if originate.Rejected(err) {
		return policy.ReasonTLSRejected
	}
	if s, ok := streamError(err); ok && fromPeer(s) {
		return policy.ReasonUpstreamReset
	} else if ok || isConnectionError(err) || errors.As(err, new(*frames.FloodError)) {
		return policy.ReasonUpstreamProtocol
	}
	return policy.ReasonUpstreamClosed
}

// isConnectionError says whether an HTTP/2 connection, or a body, was ended because of
// what the upstream sent.
func isConnectionError(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if text := err.Error(); text == textMore || strings.HasPrefix(text, prefixConnection) {
			return true
		}
	}
	return false
}
