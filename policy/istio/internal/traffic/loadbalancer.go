// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"math/big"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

const (
	leastRequest = policy.LeastRequest // Istio's default
	roundRobin   = policy.RoundRobin
	// maglevBound is what Envoy's table must stay below
	// (envoy config.cluster.v3.Cluster.MaglevLbConfig).
	maglevBound = 5000011
	// ringBound is Envoy's maximum_ring_size, which no minimum may be above.
	ringBound = 8 << 20
)

// LoadBalancer reads the loadBalancer in the mapping at; nil stays nil. outlier says
// whether there is an outlierDetection beside it.
func LoadBalancer(c *check.Checker, at *strictyaml.Node, lb *networking.LoadBalancerSettings, outlier bool) *policy.LoadBalancer {
	if lb == nil {
		return nil
	}
	o, at := reader{c}, at.At("loadBalancer")
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
	out.Locality = o.locality(at, lb.LocalityLbSetting, outlier)
	o.zoneAware(at, lb.ZoneAwareLbSetting)
	out.Warmup = o.warmup(at, lb)
	if out.Warmup != nil && out.Simple != leastRequest && out.Simple != roundRobin {
		o.Warnf(at, "warmup has no effect: it acts with %s and %s only", leastRequest, roundRobin)
	}
	return out
}

// warmup reads how new endpoints get their share; warmup comes before the
// deprecated field.
func (o reader) warmup(at *strictyaml.Node, lb *networking.LoadBalancerSettings) *policy.Warmup {
	var out *policy.Warmup
	//lint:ignore SA1019 deprecated, but Istio acts on it
	if d := lb.WarmupDurationSecs; d != nil {
		out = &policy.Warmup{Window: o.Duration(at.At("warmupDurationSecs"), "warmupDurationSecs", d)}
	}
	w := lb.Warmup
	if w == nil {
		return out
	}
	wn := at.At("warmup")
	if w.Duration == nil {
		o.Errorf(wn, "duration is required")
	}
	out = &policy.Warmup{Window: o.Duration(wn.At("duration"), "warmup duration", w.Duration), Least: w.MinimumPercent.GetValue(), Aggression: w.Aggression.GetValue()}
	if p := w.MinimumPercent.GetValue(); p < 0 || p > 100 {
		o.Errorf(wn.At("minimumPercent"), "minimumPercent value should be less than or equal to 100")
	}
	if w.Aggression != nil && w.Aggression.GetValue() < 1 {
		o.Errorf(wn.At("aggression"), "aggression should be greater than or equal to 1")
	}
	return out
}

// consistentHash reads what endpoints are chosen by; nil when it is nothing.
func (o reader) consistentHash(at *strictyaml.Node, h *networking.LoadBalancerSettings_ConsistentHashLB) *policy.ConsistentHash {
	//lint:ignore SA1019 deprecated, and warned about
	if h.MinimumRingSize != 0 {
		o.Warnf(at.KeyOf("minimumRingSize"), "consistent hash MinimumRingSize is deprecated, use ConsistentHashLB's RingHash configuration instead")
		if h.HashAlgorithm != nil {
			o.Errorf(at.KeyOf("minimumRingSize"), "only one of MinimumRingSize or Maglev/Ringhash can be specified")
		}
	}
	//lint:ignore SA1019 deprecated, but Istio acts on it
	out := &policy.ConsistentHash{RingSize: h.MinimumRingSize}
	if r := h.GetRingHash(); r != nil {
		out.RingSize = r.MinimumRingSize
	}
	if out.RingSize > ringBound {
		o.Errorf(at, "minimumRingSize is at most %d", ringBound)
	}
	if m := h.GetMaglev(); m != nil {
		o.maglev(at.At("maglev"), m.TableSize)
		out.Maglev = m.TableSize
	}
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
	if out.Header == "" && out.Query == "" && !out.SourceIP && out.Cookie == nil {
		o.Warnf(at, "consistentHash says nothing to hash; %s is used", leastRequest)
		return nil
	}
	return out
}

func (o reader) hashCookie(at *strictyaml.Node, c *networking.LoadBalancerSettings_ConsistentHashLB_HTTPCookie) *policy.HashCookie {
	if c.Name == "" {
		o.Errorf(at.At("name"), "name required for HttpCookie")
	} else if !check.IsHeaderName(c.Name) { // a token as well (RFC 6265, section 4.1.1)
		o.Errorf(at.At("name"), "%q is not a valid name for a cookie", c.Name)
	}
	out := &policy.HashCookie{Name: c.Name, Path: c.Path}
	if err := c.Ttl.CheckValid(); c.Ttl != nil && (err != nil || c.Ttl.AsDuration() < 0) {
		o.Errorf(at.At("ttl"), "ttl must be non-negative")
	} else if c.Ttl != nil {
		out.TTL = new(c.Ttl.AsDuration())
	}
	for i, attribute := range c.Attributes {
		if n := at.At("attributes", i); !n.Has("name") {
			o.Errorf(n, "httpCookie: attribute %q has no name", attribute.Value)
		}
		if strings.ContainsFunc(attribute.Name+attribute.Value, notOfCookie) {
			o.Errorf(at.At("attributes", i), "httpCookie: %q has characters that no attribute of a cookie may have", attribute.Name+"="+attribute.Value)
		}
		out.Attributes = append(out.Attributes, policy.Header{Name: attribute.Name, Value: attribute.Value})
	}
	if strings.ContainsFunc(c.Path, notOfCookie) {
		o.Errorf(at.At("path"), "httpCookie: %q has characters that no path of a cookie may have", c.Path)
	}
	return out
}

// notOfCookie says of a character that it may not be in an attribute of a cookie
// (RFC 6265, section 4.1.1).
func notOfCookie(r rune) bool { return r < ' ' || r > '~' || r == ';' }

func (o reader) maglev(at *strictyaml.Node, size uint64) {
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
