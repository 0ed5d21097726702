// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
)

// connectionPool reads the connectionPool in the mapping at; nil stays nil.
func (o *object) connectionPool(at *node, p *networking.ConnectionPoolSettings) *policy.ConnectionPool {
	if p == nil {
		return nil
	}
	if acted, rest := poolFields(p); rest {
		what := "connectionPool"
		if acted {
			what += ", but for tcp.connectTimeout, http.idleTimeout and http.maxRequestsPerConnection,"
		}
		o.inert(at.keyOf("connectionPool"), what)
	}
	return o.pool(at.at("connectionPool"), p)
}

// pool reads the settings at n; nil stays nil.
func (o *object) pool(at *node, p *networking.ConnectionPoolSettings) *policy.ConnectionPool {
	if p == nil {
		return nil
	}
	if p.Http == nil && p.Tcp == nil {
		o.errorf(at, "connection pool must have at least one field")
	}
	out := &policy.ConnectionPool{}
	o.tcpPool(at.at("tcp"), p.Tcp, out)
	o.httpPool(at.at("http"), p.Http, out)
	return out
}

// poolFields says whether p has fields that are acted on, and whether it has
// others, or none.
func poolFields(p *networking.ConnectionPoolSettings) (acted, rest bool) {
	others := proto.CloneOf(p)
	if t := others.Tcp; t != nil {
		acted = t.ConnectTimeout != nil
		t.ConnectTimeout = nil
		if proto.Equal(t, &networking.ConnectionPoolSettings_TCPSettings{}) {
			others.Tcp = nil
		}
	}
	if h := others.Http; h != nil {
		acted = acted || h.IdleTimeout != nil || h.MaxRequestsPerConnection != 0
		h.IdleTimeout, h.MaxRequestsPerConnection = nil, 0
		if proto.Equal(h, &networking.ConnectionPoolSettings_HTTPSettings{}) {
			others.Http = nil
		}
	}
	return acted, !acted || others.Tcp != nil || others.Http != nil
}

func (o *object) tcpPool(at *node, p *networking.ConnectionPoolSettings_TCPSettings, out *policy.ConnectionPool) {
	if p == nil {
		return
	}
	out.MaxConnections = o.bound(at.at("maxConnections"), "max connections", p.MaxConnections)
	out.ConnectTimeout = o.duration(at.at("connectTimeout"), "connectTimeout", p.ConnectTimeout)
	out.MaxConnectionDuration = o.duration(at.at("maxConnectionDuration"), "maxConnectionDuration", p.MaxConnectionDuration)
	if p.IdleTimeout != nil && p.IdleTimeout.GetSeconds() == 0 && p.IdleTimeout.GetNanos() == 0 {
		out.TCPIdleTimeout = -1 // 0s says that there is none
	} else {
		out.TCPIdleTimeout = o.duration(at.at("idleTimeout"), "idleTimeout", p.IdleTimeout)
	}
	if k := p.TcpKeepalive; k != nil {
		kn := at.at("tcpKeepalive")
		if k.Probes > 1<<15-1 { // what TCP_KEEPCNT holds is less still
			o.errorf(kn.at("probes"), "tcpKeepalive: %d probes are too many", k.Probes)
		}
		out.Keepalive = &policy.Keepalive{
			Probes:   int(k.Probes),
			Idle:     o.duration(kn.at("time"), "tcpKeepalive time", k.Time),
			Interval: o.duration(kn.at("interval"), "tcpKeepalive interval", k.Interval),
		}
	}
}

func (o *object) httpPool(at *node, p *networking.ConnectionPoolSettings_HTTPSettings, out *policy.ConnectionPool) {
	if p == nil {
		return
	}
	out.MaxPendingRequests = o.bound(at.at("http1MaxPendingRequests"), "http1 max pending requests", p.Http1MaxPendingRequests)
	out.MaxRequests = o.bound(at.at("http2MaxRequests"), "http2 max requests", p.Http2MaxRequests)
	out.MaxRequestsPerConn = o.bound(at.at("maxRequestsPerConnection"), "max requests per connection", p.MaxRequestsPerConnection)
	out.MaxRetries = o.bound(at.at("maxRetries"), "max retries", p.MaxRetries)
	out.MaxConcurrentStreams = o.bound(at.at("maxConcurrentStreams"), "max concurrent streams", p.MaxConcurrentStreams)
	out.HTTPIdleTimeout = o.duration(at.at("idleTimeout"), "idleTimeout", p.IdleTimeout)
	out.UseClientProtocol = p.UseClientProtocol
	switch p.H2UpgradePolicy {
	case networking.ConnectionPoolSettings_HTTPSettings_UPGRADE:
		out.UpgradeHTTP2 = new(true)
		if p.UseClientProtocol {
			o.errorf(at.at("useClientProtocol"), "use client protocol must not be true when H2UpgradePolicy is UPGRADE")
		}
	case networking.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE:
		out.UpgradeHTTP2 = new(false)
	}
	if k := p.Http2KeepAlive; k != nil {
		kn := at.at("http2KeepAlive")
		if k.Interval == nil || k.Timeout == nil {
			o.errorf(kn, "http2KeepAlive must have an interval and a timeout")
		}
		o.duration(kn.at("interval"), "http2KeepAlive interval", k.Interval)
		o.duration(kn.at("timeout"), "http2KeepAlive timeout", k.Timeout)
	}
}

// bound checks a limit; 0 is none.
func (o *object) bound(at *node, what string, v int32) int {
	if v < 0 {
		o.errorf(at, "%s must be non-negative", what)
	}
	return int(v)
}

// outlierDetection reads the outlierDetection in the mapping at; nil stays nil.
func (o *object) outlierDetection(at *node, d *networking.OutlierDetection) *policy.OutlierDetection {
	if d == nil {
		return nil
	}
	o.inert(at.keyOf("outlierDetection"), "outlierDetection")
	at = at.at("outlierDetection")
	out := &policy.OutlierDetection{
		SplitLocal:         d.SplitExternalLocalOriginErrors,
		Interval:           o.duration(at.at("interval"), "interval", d.Interval),
		BaseEjection:       o.duration(at.at("baseEjectionTime"), "baseEjectionTime", d.BaseEjectionTime),
		MaxEjectionPercent: o.wholePercent(at.at("maxEjectionPercent"), d.MaxEjectionPercent),
		MinHealthPercent:   o.wholePercent(at.at("minHealthPercent"), d.MinHealthPercent),
	}
	if v := d.Consecutive_5XxErrors; v != nil {
		out.Consecutive5xx = new(v.Value)
	}
	if v := d.ConsecutiveGatewayErrors; v != nil {
		out.ConsecutiveGateway = new(v.Value)
	}
	if v := d.ConsecutiveLocalOriginFailures; v != nil {
		out.ConsecutiveLocal = new(v.Value)
		if v.Value > 0 && !d.SplitExternalLocalOriginErrors {
			o.errorf(at.at("consecutiveLocalOriginFailures"), "outlier detection consecutive local origin failures is specified, "+
				"but split external local origin errors is set to false")
		}
	}
	for i, code := range d.OutlierDetectionHttpErrorCodes {
		if code < 100 || code > 599 {
			o.errorf(at.at("outlierDetectionHttpErrorCodes", i), "HTTP status %d is not in range 100-599", code)
		}
	}
	//lint:ignore SA1019 deprecated, and warned about
	if d.ConsecutiveErrors != 0 {
		o.warnf(at.keyOf("consecutiveErrors"), "outlier detection consecutive errors is deprecated, "+
			"use consecutiveGatewayErrors or consecutive5xxErrors instead")
	}
	return out
}

func (o *object) wholePercent(at *node, v int32) int {
	if v < 0 || v > 100 {
		o.errorf(at, "percentage %v is not in range 0..100", v)
	}
	return int(v)
}
