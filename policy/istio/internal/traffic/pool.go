// SPDX-License-Identifier: Apache-2.0

// Package traffic reads the parts of DestinationRules' traffic policies that stand for
// themselves: load balancing, connection pools, outlier detection.
package traffic

import (
	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// reader reads parts of a traffic policy; what is wrong with them is said to its Checker.
type reader struct{ *check.Checker }

// ConnectionPool reads the connectionPool in the mapping at; nil stays nil.
func ConnectionPool(c *check.Checker, at *strictyaml.Node, p *networking.ConnectionPoolSettings) *policy.ConnectionPool {
	if p == nil {
		return nil
	}
	return Pool(c, at.At("connectionPool"), p)
}

// Pool reads the settings at a node itself; nil stays nil.
func Pool(c *check.Checker, at *strictyaml.Node, p *networking.ConnectionPoolSettings) *policy.ConnectionPool {
	if p == nil {
		return nil
	}
	o := reader{c}
	if p.Http == nil && p.Tcp == nil {
		o.Errorf(at, "connection pool must have at least one field")
	}
	out := &policy.ConnectionPool{}
	o.tcpPool(at.At("tcp"), p.Tcp, out)
	o.httpPool(at.At("http"), p.Http, out)
	return out
}

func (o reader) tcpPool(at *strictyaml.Node, p *networking.ConnectionPoolSettings_TCPSettings, out *policy.ConnectionPool) {
	if p == nil {
		return
	}
	out.MaxConnections = o.bound(at.At("maxConnections"), "max connections", p.MaxConnections)
	out.ConnectTimeout = o.Duration(at.At("connectTimeout"), "connectTimeout", p.ConnectTimeout)
	out.MaxConnectionDuration = o.Duration(at.At("maxConnectionDuration"), "maxConnectionDuration", p.MaxConnectionDuration)
	if p.IdleTimeout != nil && p.IdleTimeout.GetSeconds() == 0 && p.IdleTimeout.GetNanos() == 0 {
		out.TCPIdleTimeout = -1 // 0s says that there is none
	} else {
		out.TCPIdleTimeout = o.Duration(at.At("idleTimeout"), "idleTimeout", p.IdleTimeout)
	}
	if k := p.TcpKeepalive; k != nil {
		kn := at.At("tcpKeepalive")
		if k.Probes > 1<<15-1 { // what TCP_KEEPCNT holds is less still
			o.Errorf(kn.At("probes"), "tcpKeepalive: %d probes are too many", k.Probes)
		}
		out.Keepalive = &policy.Keepalive{
			Probes:   int(k.Probes),
			Idle:     o.Duration(kn.At("time"), "tcpKeepalive time", k.Time),
			Interval: o.Duration(kn.At("interval"), "tcpKeepalive interval", k.Interval),
		}
	}
}

func (o reader) httpPool(at *strictyaml.Node, p *networking.ConnectionPoolSettings_HTTPSettings, out *policy.ConnectionPool) {
	if p == nil {
		return
	}
	out.MaxPendingRequests = o.bound(at.At("http1MaxPendingRequests"), "http1 max pending requests", p.Http1MaxPendingRequests)
	out.MaxRequests = o.bound(at.At("http2MaxRequests"), "http2 max requests", p.Http2MaxRequests)
	out.MaxRequestsPerConn = o.bound(at.At("maxRequestsPerConnection"), "max requests per connection", p.MaxRequestsPerConnection)
	out.MaxRetries = o.bound(at.At("maxRetries"), "max retries", p.MaxRetries)
	out.MaxConcurrentStreams = o.bound(at.At("maxConcurrentStreams"), "max concurrent streams", p.MaxConcurrentStreams)
	out.HTTPIdleTimeout = o.Duration(at.At("idleTimeout"), "idleTimeout", p.IdleTimeout)
	out.UseClientProtocol = p.UseClientProtocol
	switch p.H2UpgradePolicy {
	case networking.ConnectionPoolSettings_HTTPSettings_UPGRADE:
		out.UpgradeHTTP2 = new(true)
		if p.UseClientProtocol {
			o.Errorf(at.At("useClientProtocol"), "use client protocol must not be true when H2UpgradePolicy is UPGRADE")
		}
	case networking.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE:
		out.UpgradeHTTP2 = new(false)
	}
	if k := p.Http2KeepAlive; k != nil {
		kn := at.At("http2KeepAlive")
		if k.Interval == nil || k.Timeout == nil {
			o.Errorf(kn, "http2KeepAlive must have an interval and a timeout")
		}
		out.HTTP2Keepalive = &policy.HTTP2Keepalive{
			Interval: o.Duration(kn.At("interval"), "http2KeepAlive interval", k.Interval),
			Timeout:  o.Duration(kn.At("timeout"), "http2KeepAlive timeout", k.Timeout),
		}
	}
}

// bound checks a limit; 0 is none.
func (o reader) bound(at *strictyaml.Node, what string, v int32) int {
	if v < 0 {
		o.Errorf(at, "%s must be non-negative", what)
	}
	return int(v)
}

// OutlierDetection reads the outlierDetection in the mapping at; nil stays nil.
func OutlierDetection(c *check.Checker, at *strictyaml.Node, d *networking.OutlierDetection) *policy.OutlierDetection {
	if d == nil {
		return nil
	}
	o, at := reader{c}, at.At("outlierDetection")
	out := &policy.OutlierDetection{
		SplitLocal:         d.SplitExternalLocalOriginErrors,
		Interval:           o.Duration(at.At("interval"), "interval", d.Interval),
		BaseEjection:       o.Duration(at.At("baseEjectionTime"), "baseEjectionTime", d.BaseEjectionTime),
		MaxEjectionPercent: o.wholePercent(at.At("maxEjectionPercent"), d.MaxEjectionPercent),
		MinHealthPercent:   o.wholePercent(at.At("minHealthPercent"), d.MinHealthPercent),
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
			o.Errorf(at.At("consecutiveLocalOriginFailures"), "outlier detection consecutive local origin failures is specified, "+
				"but split external local origin errors is set to false")
		}
	}
	for i, code := range d.OutlierDetectionHttpErrorCodes {
		if code < 100 || code > 599 {
			o.Errorf(at.At("outlierDetectionHttpErrorCodes", i), "HTTP status %d is not in range 100-599", code)
		}
		out.Codes = append(out.Codes, code)
	}
	//lint:ignore SA1019 deprecated, and warned about
	if d.ConsecutiveErrors != 0 {
		o.Warnf(at.KeyOf("consecutiveErrors"), "outlier detection consecutive errors is deprecated, "+
			"use consecutiveGatewayErrors or consecutive5xxErrors instead")
	}
	return out
}

func (o reader) wholePercent(at *strictyaml.Node, v int32) int {
	if v < 0 || v > 100 {
		o.Errorf(at, "percentage %v is not in range 0..100", v)
	}
	return int(v)
}
