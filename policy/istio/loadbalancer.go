// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"math/big"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
)

const (
	leastRequest = "LEAST_REQUEST" // Istio's default
	// maglevBound is what Envoy's table must stay below
	// (envoy config.cluster.v3.Cluster.MaglevLbConfig).
	maglevBound = 5000011
)

// loadBalancer reads the loadBalancer in the mapping at; nil stays nil.
func (o *object) loadBalancer(at *node, lb *networking.LoadBalancerSettings, outlier bool) *policy.LoadBalancer {
	if lb == nil {
		return nil
	}
	o.inert(at.keyOf("loadBalancer"), "loadBalancer")
	at = at.at("loadBalancer")
	out := &policy.LoadBalancer{Simple: leastRequest}
	switch p := lb.LbPolicy.(type) {
	case *networking.LoadBalancerSettings_Simple:
		switch p.Simple {
		//lint:ignore SA1019 deprecated, and the same as LEAST_REQUEST
		case networking.LoadBalancerSettings_UNSPECIFIED, networking.LoadBalancerSettings_LEAST_CONN:
		default:
			out.Simple = p.Simple.String()
		}
	case *networking.LoadBalancerSettings_ConsistentHash:
		if h := o.consistentHash(at.at("consistentHash"), p.ConsistentHash); h != nil {
			out.Simple, out.Hash = "", h
		}
	}
	if lb.LocalityLbSetting != nil && lb.ZoneAwareLbSetting != nil {
		o.errorf(at.keyOf("zoneAwareLbSetting"), "localityLbSetting and zoneAwareLbSetting must not be set together")
	}
	o.locality(at.at("localityLbSetting"), lb.LocalityLbSetting, outlier)
	o.zoneAware(at.at("zoneAwareLbSetting"), lb.ZoneAwareLbSetting)
	//lint:ignore SA1019 deprecated, but Istio acts on it
	if d := lb.WarmupDurationSecs; d != nil {
		out.Warmup = o.duration(at.at("warmupDurationSecs"), "warmupDurationSecs", d)
	}
	if w := lb.Warmup; w != nil {
		wn := at.at("warmup")
		if w.Duration == nil {
			o.errorf(wn, "duration is required")
		}
		out.Warmup = o.duration(wn.at("duration"), "warmup duration", w.Duration)
		if w.MinimumPercent.GetValue() > 100 {
			o.errorf(wn.at("minimumPercent"), "minimumPercent value should be less than or equal to 100")
		}
		if w.Aggression != nil && w.Aggression.GetValue() < 1 {
			o.errorf(wn.at("aggression"), "aggression should be greater than or equal to 1")
		}
	}
	return out
}

// consistentHash reads what endpoints are chosen by; nil when it is nothing.
func (o *object) consistentHash(at *node, h *networking.LoadBalancerSettings_ConsistentHashLB) *policy.ConsistentHash {
	//lint:ignore SA1019 deprecated, and warned about
	if h.MinimumRingSize != 0 {
		o.warnf(at.keyOf("minimumRingSize"), "consistent hash MinimumRingSize is deprecated, use ConsistentHashLB's RingHash configuration instead")
		if h.HashAlgorithm != nil {
			o.errorf(at.keyOf("minimumRingSize"), "only one of MinimumRingSize or Maglev/Ringhash can be specified")
		}
	}
	if m := h.GetMaglev(); m != nil {
		o.maglev(at.at("maglev"), m.TableSize)
	}
	out := &policy.ConsistentHash{}
	switch k := h.HashKey.(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		out.Header = k.HttpHeaderName
		if !isHeaderName(k.HttpHeaderName) {
			o.errorf(at.at("httpHeaderName"), "header name %q is not a valid header name", k.HttpHeaderName)
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		out.Query = k.HttpQueryParameterName
		if k.HttpQueryParameterName == "" {
			o.errorf(at.at("httpQueryParameterName"), "query parameter name cannot be empty")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		out.SourceIP = k.UseSourceIp
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		out.Cookie = o.hashCookie(at.at("httpCookie"), k.HttpCookie)
	}
	if *out == (policy.ConsistentHash{}) {
		o.warnf(at, "consistentHash says nothing to hash; %s is used", leastRequest)
		return nil
	}
	return out
}

func (o *object) hashCookie(at *node, c *networking.LoadBalancerSettings_ConsistentHashLB_HTTPCookie) *policy.HashCookie {
	if c.Name == "" {
		o.errorf(at.at("name"), "name required for HttpCookie")
	} else if !isHeaderName(c.Name) { // a token as well (RFC 6265, section 4.1.1)
		o.errorf(at.at("name"), "%q is not a valid name for a cookie", c.Name)
	}
	out := &policy.HashCookie{Name: c.Name, Path: c.Path}
	if err := c.Ttl.CheckValid(); c.Ttl != nil && (err != nil || c.Ttl.AsDuration() < 0) {
		o.errorf(at.at("ttl"), "ttl must be non-negative")
	} else {
		out.TTL = c.Ttl.AsDuration()
	}
	for i, attribute := range c.Attributes {
		if n := at.at("attributes", i); !n.has("name") {
			o.errorf(n, "httpCookie: attribute %q has no name", attribute.Value)
		}
	}
	if len(c.Attributes) > 0 {
		o.inert(at.keyOf("attributes"), "httpCookie attributes")
	}
	return out
}

func (o *object) maglev(at *node, size uint64) {
	n := at.at("tableSize")
	switch {
	case size == 0:
		o.errorf(n, "tableSize must be set for maglev")
	case size >= maglevBound:
		o.errorf(n, "tableSize must be less than %d for maglev", maglevBound)
	case !new(big.Int).SetUint64(size).ProbablyPrime(0): // exact below 2^64
		o.errorf(n, "tableSize must be a prime number for maglev")
	}
}
