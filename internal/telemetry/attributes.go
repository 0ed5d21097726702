// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/expression"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// secret are fields that no expression and no tag sees: who reads metrics or spans would
// have what they open.
var secret = []string{"authorization", "cookie", "proxy-authorization", "set-cookie"}

// IsSecret says whether a field has credentials.
func IsSecret(name string) bool { return slices.Contains(secret, strings.ToLower(name)) }

// Attributes are those of what is observed, by the names that Envoy has for them.
func Attributes(o *flow.Observation) expression.Attributes {
	return func(variable string) map[string]any {
		switch variable {
		case "request":
			return request(o)
		case "response":
			return response(o)
		case "connection":
			return said("requested_server_name", serverName(o), "termination_details", termination(o), "mtls", false)
		case "source":
			m := place(o.Src)
			m["workload"] = o.Workload
			return m
		case "destination":
			m := place(o.Dst)
			if o.To != nil {
				m["service"] = o.To.Host
			} else if o.Host != nil {
				m["service"] = string(o.Host.Pattern)
			}
			return m
		case "upstream":
			m := place(o.Event.Upstream)
			m["request_attempt_count"] = int64(o.Retries) + 1
			return m
		case "xds":
			return said("route_name", o.Route, "cluster_name", cluster(o))
		case "egressd":
			return said("allowed", o.Allowed && !o.WouldDeny, "layer", string(o.Layer), "reason", string(o.Reason), "verdict", o.Verdict.String())
		}
		return nil
	}
}

// said is a map of what there is: an empty text is none.
func said(pairs ...any) map[string]any {
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		switch v := pairs[i+1].(type) {
		case string:
			if v != "" {
				m[pairs[i].(string)] = strings.ToValidUTF8(strings.Clone(v), "\ufffd")
			}
		default:
			m[pairs[i].(string)] = v
		}
	}
	return m
}

func request(o *flow.Observation) map[string]any {
	if o.Kind != flow.Request {
		return map[string]any{}
	}
	target := o.Target
	if target == "" {
		target = o.Path
	}
	path, query, _ := strings.Cut(target, "?")
	m := said("path", target, "url_path", path, "query", query, "host", o.Authority, "method", o.Method, "scheme", o.Scheme,
		"id", o.ID(), "referer", o.Request.Get("referer"), "useragent", o.Request.Get("user-agent"),
		"protocol", protocol(o), "time", o.Time.Add(-o.Duration), "duration", o.Duration, "size", o.BytesSent)
	m["headers"] = headers(o.Request)
	return m
}

func response(o *flow.Observation) map[string]any {
	if o.Kind != flow.Request {
		return said("flags", o.ResponseFlags)
	}
	m := said("flags", o.ResponseFlags, "code_details", details(o), "size", o.BytesReceived, "code", int64(o.Status), "backend_latency", o.Answered)
	if o.Answered == 0 {
		delete(m, "backend_latency")
	}
	for _, l := range []field.List{o.Trailer, o.Response} {
		if n, err := strconv.Atoi(l.Get("grpc-status")); err == nil && m["grpc_status"] == nil {
			m["grpc_status"] = int64(n)
		}
	}
	m["headers"], m["trailers"] = headers(o.Response), headers(o.Trailer)
	return m
}

// headers are fields by their names in lower case, several of one name as one.
func headers(l field.List) map[string]string {
	m := make(map[string]string, len(l))
	for _, f := range l {
		name := strings.ToLower(f.Name)
		if slices.Contains(secret, name) {
			continue
		}
		value := strings.ToValidUTF8(strings.Clone(f.Value), "\ufffd")
		if was, ok := m[name]; ok {
			value = was + "," + value
		}
		m[name] = value
	}
	return m
}

func place(a netip.AddrPort) map[string]any {
	if !a.IsValid() {
		return map[string]any{}
	}
	a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	return map[string]any{"address": a.String(), "port": int64(a.Port())}
}

func protocol(o *flow.Observation) string {
	switch o.Major {
	case 0:
		return ""
	case 2:
		return "HTTP/2"
	}
	return "HTTP/1." + strconv.Itoa(o.Minor)
}

func details(o *flow.Observation) string {
	switch {
	case o.Reason != policy.ReasonAllowed && !o.WouldDeny:
		return string(o.Reason)
	case o.Answered > 0:
		return "via_upstream"
	}
	return "direct_response"
}

func serverName(o *flow.Observation) string { return o.ServerName() }

func termination(o *flow.Observation) string {
	if o.Kind == flow.Request || o.Reason == policy.ReasonAllowed {
		return ""
	}
	return string(o.Reason)
}

// cluster is Envoy's name of the destination, as Istio makes it.
func cluster(o *flow.Observation) string {
	switch {
	case o.To != nil:
		return "outbound|" + strconv.Itoa(int(o.To.Port)) + "|" + o.To.Subset + "|" + o.To.Host
	case !o.Allowed:
		return "BlackHoleCluster"
	case o.Host != nil && o.Kind != flow.Request:
		return "outbound|" + strconv.Itoa(int(o.Dst.Port())) + "||" + string(o.Host.Pattern)
	}
	return ""
}
