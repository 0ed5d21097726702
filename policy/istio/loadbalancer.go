// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"math/big"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

const (
	leastRequest = "LEAST_REQUEST" // Istio's default
	// maglevBound is what Envoy's table must stay below
	// (envoy config.cluster.v3.Cluster.MaglevLbConfig).
	maglevBound = 5000011
)

// loadBalancer reads the loadBalancer in the mapping at; nil stays nil.
func (o *object) loadBalancer(at *strictyaml.Node, lb *networking.LoadBalancerSettings, outlier bool) *policy.LoadBalancer {
	if lb == nil {
		return nil
	}
	o.Inert(at.KeyOf("loadBalancer"), "loadBalancer")
	at = at.At("loadBalancer")
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
		if h := o.consistentHash(at.At("consistentHash"), p.ConsistentHash); h != nil {
			out.Simple, out.Hash = "", h
		}
	}
	if lb.LocalityLbSetting != nil && lb.ZoneAwareLbSetting != nil {
		o.Errorf(at.KeyOf("zoneAwareLbSetting"), "localityLbSetting and zoneAwareLbSetting must not be set together")
	}
	o.locality(at.At("localityLbSetting"), lb.LocalityLbSetting, outlier)
	o.zoneAware(at.At("zoneAwareLbSetting"), lb.ZoneAwareLbSetting)
	//lint:ignore SA1019 deprecated, but Istio acts on it
	if d := lb.WarmupDurationSecs; d != nil {
		out.Warmup = o.Duration(at.At("warmupDurationSecs"), "warmupDurationSecs", d)
	}
	if w := lb.Warmup; w != nil {
		wn := at.At("warmup")
		if w.Duration == nil {
			o.Errorf(wn, "duration is required")
		}
		out.Warmup = o.Duration(wn.At("duration"), "warmup duration", w.Duration)
		if w.MinimumPercent.GetValue() > 100 {
			o.Errorf(wn.At("minimumPercent"), "minimumPercent value should be less than or equal to 100")
		}
		if w.Aggression != nil && w.Aggression.GetValue() < 1 {
			o.Errorf(wn.At("aggression"), "aggression should be greater than or equal to 1")
		}
	}
	return out
}

// consistentHash reads what endpoints are chosen by; nil when it is nothing.
func (o *object) consistentHash(at *strictyaml.Node, h *networking.LoadBalancerSettings_ConsistentHashLB) *policy.ConsistentHash {
	//lint:ignore SA1019 deprecated, and warned about
	if h.MinimumRingSize != 0 {
		o.Warnf(at.KeyOf("minimumRingSize"), "consistent hash MinimumRingSize is deprecated, use ConsistentHashLB's RingHash configuration instead")
		if h.HashAlgorithm != nil {
			o.Errorf(at.KeyOf("minimumRingSize"), "only one of MinimumRingSize or Maglev/Ringhash can be specified")
		}
	}
	if m := h.GetMaglev(); m != nil {
		o.maglev(at.At("maglev"), m.TableSize)
	}
	out := &policy.ConsistentHash{}
	switch k := h.HashKey.(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		out.Header = k.HttpHeaderName
		if !check.IsHeaderName(k.HttpHeaderName) {
			o.Errorf(at.At("httpHeaderName"), "header name %q is not a valid header name", k.HttpHeaderName)
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		out.Query = k.HttpQueryParameterName
		if k.HttpQueryParameterName == "" {
			o.Errorf(at.At("httpQueryParameterName"), "query parameter name cannot be empty")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		out.SourceIP = k.UseSourceIp
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		out.Cookie = o.hashCookie(at.At("httpCookie"), k.HttpCookie)
	}
	if *out == (policy.ConsistentHash{}) {
		o.Warnf(at, "consistentHash says nothing to hash; %s is used", leastRequest)
		return nil
	}
	return out
}

func (o *object) hashCookie(at *strictyaml.Node, c *networking.LoadBalancerSettings_ConsistentHashLB_HTTPCookie) *policy.HashCookie {
	if c.Name == "" {
		o.Errorf(at.At("name"), "name required for HttpCookie")
	} else if !check.IsHeaderName(c.Name) { // a token as well (RFC 6265, section 4.1.1)
		o.Errorf(at.At("name"), "%q is not a valid name for a cookie", c.Name)
	}
	out := &policy.HashCookie{Name: c.Name, Path: c.Path}
	if err := c.Ttl.CheckValid(); c.Ttl != nil && (err != nil || c.Ttl.AsDuration() < 0) {
		o.Errorf(at.At("ttl"), "ttl must be non-negative")
	} else {
		out.TTL = c.Ttl.AsDuration()
	}
	for i, attribute := range c.Attributes {
		if n := at.At("attributes", i); !n.Has("name") {
			o.Errorf(n, "httpCookie: attribute %q has no name", attribute.Value)
		}
	}
	if len(c.Attributes) > 0 {
		o.Inert(at.KeyOf("attributes"), "httpCookie attributes")
	}
	return out
}

func (o *object) maglev(at *strictyaml.Node, size uint64) {
	n := at.At("tableSize")
	switch {
	case size == 0:
		o.Errorf(n, "tableSize must be set for maglev")
	case size >= maglevBound:
		o.Errorf(n, "tableSize must be less than %d for maglev", maglevBound)
	case !new(big.Int).SetUint64(size).ProbablyPrime(0): // exact below 2^64
		o.Errorf(n, "tableSize must be a prime number for maglev")
	}
}
