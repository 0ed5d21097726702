// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The gRPC status codes that the core uses (grpc/grpc doc/statuscodes.md).
const (
	grpcUnknown          = 2
	grpcPermissionDenied = 7
	grpcUnimplemented    = 12
	grpcInternal         = 13
	grpcUnavailable      = 14
	grpcUnauthenticated  = 16
)

// grpcStatus is the gRPC status for an HTTP status of ours, as Envoy maps
// them, but for policy denials: UNAVAILABLE would have clients try again.
func grpcStatus(status int, denied bool) int {
	switch status {
	case http.StatusBadRequest:
		return grpcInternal
	case http.StatusUnauthorized:
		return grpcUnauthenticated
	case http.StatusForbidden:
		return grpcPermissionDenied
	case http.StatusNotFound:
		return grpcUnimplemented
	}
	switch {
	case denied:
		return grpcPermissionDenied
	case status == http.StatusTooManyRequests, status >= 502 && status <= 504:
		return grpcUnavailable
	}
	return grpcUnknown
}

// replyGRPC answers with a header-only gRPC response.
func (x *exchange) replyGRPC(code int, text string) {
	h := x.w.Header()
	x.ours(h)
	if x.routed {
		x.share(h)
	}
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", strings.ReplaceAll(url.QueryEscape(text), "+", "%20"))
	x.writeStatus(http.StatusOK)
}
