// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net/netip"
	"strings"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// visitor is who sent a request with a header to a gateway; nil: a workload did.
func (t *client) visitor(h field.List) *policy.Visitor {
	if t.Info.Layer != flow.Ingress {
		return nil
	}
	src := t.Info.Src.Addr().Unmap().WithZone("")
	v := &policy.Visitor{Src: src, Remote: src}
	if a := forwardedFor(h, t.Info.TrustedProxies); a.IsValid() {
		v.Remote = a
	}
	if s := t.TLS; s != nil {
		v.TLS, v.SNI, v.Principal = true, s.SNI, s.Principal
	}
	return v
}

// forwardedFor is the address that the outermost of a number of trusted proxies says
// the visitor has, as Envoy finds it (source/common/http/utility.cc,
// getLastAddressFromXFF): invalid if there are fewer, or it is none.
func forwardedFor(h field.List, trusted int) netip.Addr {
	if trusted < 1 {
		return netip.Addr{}
	}
	rest := strings.Join(h.Values("X-Forwarded-For"), ",")
	for i := 1; i < trusted; i++ {
		at := strings.LastIndexByte(rest, ',')
		if at < 0 {
			return netip.Addr{}
		}
		rest = rest[:at]
	}
	a, err := netip.ParseAddr(strings.Trim(rest[strings.LastIndexByte(rest, ',')+1:], " \t"))
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// hopFields are what tells the proxies of one operator something, and is not for
// visitors to say (Envoy's source/common/http/conn_manager_utility.cc,
// cleanInternalHeaders).
var hopFields = []string{
	"X-Envoy-Decorator-Operation", "X-Envoy-Downstream-Service-Cluster", "X-Envoy-Downstream-Service-Node",
	"X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-External-Address", "X-Envoy-Force-Trace", "X-Envoy-Hedge-On-Per-Try-Timeout",
	"X-Envoy-Internal", "X-Envoy-Ip-Tags", "X-Envoy-Is-Timeout-Retry", "X-Envoy-Max-Retries", "X-Envoy-Original-Path",
	"X-Envoy-Original-Url", "X-Envoy-Retriable-Header-Names", "X-Envoy-Retriable-Status-Codes", "X-Envoy-Retry-Grpc-On",
	"X-Envoy-Retry-On", "X-Envoy-Upstream-Alt-Stat-Name", "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms",
	"X-Envoy-Upstream-Rq-Timeout-Alt-Response", "X-Envoy-Upstream-Rq-Timeout-Ms", "X-Envoy-Upstream-Stream-Duration-Ms",
}

// forwarded tells the upstream of a gateway who the visitor is, as Istio's gateways
// do (Envoy's conn_manager_utility.cc, mutateRequestHeaders, with
// use_remote_address): its address is behind those that it says it comes from, and
// what only a proxy can know is not the visitor's to say, unless proxies that are
// trusted stand before egressd. Requests of workloads go on as they came.
func (x *exchange) forwarded(h *field.List) {
	v := x.req.Visitor
	if v == nil {
		return
	}
	for _, name := range hopFields {
		h.Del(name)
	}
	h.Del("X-Forwarded-Client-Cert")
	if s := x.conn.TLS; s != nil && s.Certified {
		h.Set("X-Forwarded-Client-Cert", s.Cert)
	}
	if x.conn.Info.TrustedProxies < 1 || !h.Has("X-Forwarded-Proto") {
		h.Set("X-Forwarded-Proto", x.req.Scheme)
	}
	if !v.Src.IsValid() { // it came by a unix socket: nothing can be added
		if x.conn.Info.TrustedProxies < 1 {
			h.Del("X-Forwarded-For")
		}
		if v.Remote.IsValid() {
			h.Set("X-Envoy-External-Address", v.Remote.String())
		}
		return
	}
	// Who has come through no proxy and from inside is of the operator's own.
	own := !h.Has("X-Forwarded-For") && (v.Remote.IsPrivate() || v.Remote.IsLoopback() || v.Remote.IsLinkLocalUnicast())
	h.Set("X-Forwarded-For", strings.Join(append(h.Values("X-Forwarded-For"), v.Src.String()), ","))
	if own {
		h.Set("X-Envoy-Internal", "true")
		return
	}
	h.Set("X-Envoy-External-Address", v.Remote.String())
}
