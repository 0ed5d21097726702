// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"net/netip"
	"os"
	"strconv"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/logformat"
	"github.com/egressd/egressd/policy"
)

// kind is what a value is.
type kind uint8

const (
	absent kind = iota
	text
	number
)

// value appends the value of an operator to b, raw.
type value func(b []byte, s *flow.Observation, p *part) ([]byte, kind)

// values are those of the operators of package logformat, by name.
var values = map[string]value{
	"BYTES_RECEIVED":                         counted(func(s *flow.Observation) int64 { return s.BytesSent }),
	"BYTES_SENT":                             counted(func(s *flow.Observation) int64 { return s.BytesReceived }),
	"CONNECTION_TERMINATION_DETAILS":         said(termination),
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS":       at(source),
	"DOWNSTREAM_LOCAL_ADDRESS":               dialledAt,
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":  address(dialled),
	"DOWNSTREAM_LOCAL_PORT":                  port(dialled),
	"DOWNSTREAM_REMOTE_ADDRESS":              at(source),
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": address(source),
	"DOWNSTREAM_REMOTE_PORT":                 port(source),
	"DURATION":                               counted(func(s *flow.Observation) int64 { return s.Duration.Milliseconds() }),
	"EGRESSD":                                own,
	"GRPC_STATUS_NUMBER":                     grpcStatus,
	"HOSTNAME":                               said(func(*flow.Observation) string { name, _ := os.Hostname(); return name }),
	"PROTOCOL":                               protocol,
	"REQ":                                    requestField,
	"REQUESTED_SERVER_NAME":                  said(serverName),
	"REQ_WITHOUT_QUERY":                      requestFieldWithoutQuery,
	"RESP":                                   responseField,
	"RESPONSE_CODE":                          counted(func(s *flow.Observation) int64 { return int64(s.Status) }),
	"RESPONSE_CODE_DETAILS":                  codeDetails,
	"RESPONSE_FLAGS":                         flags,
	"ROUTE_NAME":                             said(func(s *flow.Observation) string { return s.Route }),
	"START_TIME":                             startTime,
	"TRACE_ID":                               said(func(s *flow.Observation) string { return s.TraceID }),
	"TRAILER":                                trailerField,
	"UPSTREAM_CLUSTER":                       cluster,
	"UPSTREAM_CLUSTER_RAW":                   cluster,
	"UPSTREAM_HOST":                          at(upstream),
	"UPSTREAM_LOCAL_ADDRESS":                 at(func(*flow.Observation) netip.AddrPort { return netip.AddrPort{} }),
	"UPSTREAM_REQUEST_ATTEMPT_COUNT":         counted(attempts),
	"UPSTREAM_TRANSPORT_FAILURE_REASON":      said(transportFailure),
}

// said is an operator whose value is a text; "" is absent.
func said(f func(*flow.Observation) string) func([]byte, *flow.Observation, *part) ([]byte, kind) {
	return func(b []byte, s *flow.Observation, _ *part) ([]byte, kind) { return appendSaid(b, f(s)) }
}

func appendSaid(b []byte, s string) ([]byte, kind) {
	if s == "" {
		return b, absent
	}
	return append(b, s...), text
}

func counted(f func(*flow.Observation) int64) func([]byte, *flow.Observation, *part) ([]byte, kind) {
	return func(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
		return strconv.AppendInt(b, f(s), 10), number
	}
}

// at is an operator that shows an address with its port, as Envoy does: 192.0.2.1:80,
// [2001:db8::1]:80.
func at(f func(*flow.Observation) netip.AddrPort) func([]byte, *flow.Observation, *part) ([]byte, kind) {
	return func(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
		a := f(s)
		if !a.IsValid() {
			return b, absent
		}
		return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).AppendTo(b), text
	}
}

func address(f func(*flow.Observation) netip.AddrPort) func([]byte, *flow.Observation, *part) ([]byte, kind) {
	return func(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
		a := f(s)
		if !a.IsValid() {
			return b, absent
		}
		return a.Addr().Unmap().WithZone("").AppendTo(b), text
	}
}

func port(f func(*flow.Observation) netip.AddrPort) func([]byte, *flow.Observation, *part) ([]byte, kind) {
	return func(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
		a := f(s)
		if !a.IsValid() {
			return b, absent
		}
		return strconv.AppendUint(b, uint64(a.Port()), 10), number
	}
}

func source(s *flow.Observation) netip.AddrPort { return s.Src }

// at socket is the path where there is no address, as Envoy has it.
func dialledAt(b []byte, s *flow.Observation, p *part) ([]byte, kind) {
	if s.Socket != "" {
		return append(b, s.Socket...), text
	}
	return at(dialled)(b, s, p)
}

func dialled(s *flow.Observation) netip.AddrPort { return s.Dst }

// upstream is where the flow really went: what the kernel lets pass goes where it was
// dialled unless it says otherwise.
func upstream(s *flow.Observation) netip.AddrPort {
	if s.Layer == flow.Kernel && s.Allowed && !s.Event.Upstream.IsValid() {
		return s.Dst
	}
	return s.Event.Upstream
}

func attempts(s *flow.Observation) int64 {
	if !upstream(s).IsValid() {
		return 0
	}
	return int64(s.Retries) + 1
}

func request(s *flow.Observation) bool { return s.Kind == flow.Request }

func startTime(b []byte, s *flow.Observation, p *part) ([]byte, kind) {
	return logformat.AppendTime(b, s.Time.Add(-s.Duration).UTC(), p.Arg), text
}

func protocol(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
	switch {
	case !request(s) || s.Major == 0:
		return b, absent
	case s.Major == 2:
		return append(b, "HTTP/2"...), text
	}
	return strconv.AppendInt(append(b, "HTTP/1."...), int64(s.Minor), 10), text
}

func flags(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
	if s.ResponseFlags == "" {
		return append(b, '-'), text
	}
	return append(b, s.ResponseFlags...), text
}

func serverName(s *flow.Observation) string { return s.ServerName() }

// codeDetails says where the status comes from.
func codeDetails(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
	switch {
	case !request(s) || s.Status == 0 && s.Reason == policy.ReasonAllowed:
		return b, absent
	case s.Reason == policy.ReasonAllowed || s.WouldDeny:
		if s.Answered > 0 {
			return append(b, "via_upstream"...), text
		}
		return append(b, "direct_response"...), text
	}
	return appendReason(b, s.Reason), text
}

func appendReason(b []byte, r policy.Reason) []byte {
	for i := range len(r) {
		c := r[i]
		if c == '-' {
			c = '_'
		}
		b = append(b, c)
	}
	return b
}

// termination is why a connection ended that was denied, or had to end.
func termination(s *flow.Observation) string {
	if request(s) || s.Reason == policy.ReasonAllowed {
		return ""
	}
	return string(s.Reason)
}

func transportFailure(s *flow.Observation) string {
	if s.Reason == policy.ReasonUpstream {
		return s.Detail
	}
	return ""
}

// cluster is Envoy's name of the destination, as Istio makes it:
// outbound|PORT|SUBSET|HOST.
func cluster(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
	switch {
	case s.To != nil:
		b = strconv.AppendUint(append(b, "outbound|"...), uint64(s.To.Port), 10)
		b = append(append(append(b, '|'), s.To.Subset...), '|')
		return append(b, s.To.Host...), text
	case !s.Allowed:
		return append(b, "BlackHoleCluster"...), text
	case s.Host != nil && !request(s):
		b = strconv.AppendUint(append(b, "outbound|"...), uint64(s.Dst.Port()), 10)
		return append(append(b, "||"...), s.Host.Pattern...), text
	case !request(s):
		return append(b, "PassthroughCluster"...), text
	}
	return b, absent
}

// requestField is a field of the request, or what HTTP/2 has as one.
func requestField(b []byte, s *flow.Observation, p *part) ([]byte, kind) {
	b, k := fieldOfRequest(b, s, p.Arg)
	if k == absent && p.Alt != "" {
		return fieldOfRequest(b, s, p.Alt)
	}
	return b, k
}

// requestFieldWithoutQuery is a path of the request up to its query.
func requestFieldWithoutQuery(b []byte, s *flow.Observation, p *part) ([]byte, kind) {
	was := len(b)
	b, k := requestField(b, s, p)
	if i := bytes.IndexByte(b[was:], '?'); i >= 0 {
		b = b[:was+i]
	}
	return b, k
}

func fieldOfRequest(b []byte, s *flow.Observation, name string) ([]byte, kind) {
	switch {
	case !request(s):
		return b, absent
	case field.Same(name, ":method"):
		return appendSaid(b, s.Method)
	case field.Same(name, ":path"):
		if s.Target == "" {
			return appendSaid(b, s.Path)
		}
		return appendSaid(b, s.Target)
	case field.Same(name, ":authority"), field.Same(name, "host"):
		return appendSaid(b, s.Authority)
	case field.Same(name, ":scheme"):
		return appendSaid(b, s.Scheme)
	case field.Same(name, "x-request-id"):
		return appendSaid(b, s.ID())
	}
	return appendFirst(b, s.Request, name)
}

func appendFirst(b []byte, l field.List, name string) ([]byte, kind) {
	if i := l.Index(name, 0); i >= 0 {
		return append(b, l[i].Value...), text
	}
	return b, absent
}

func responseField(b []byte, s *flow.Observation, p *part) ([]byte, kind) {
	for _, name := range []string{p.Arg, p.Alt} {
		if i := s.Response.Index(name, 0); name != "" && i >= 0 {
			return append(b, s.Response[i].Value...), text
		}
		// Envoy adds it to every answer; here nothing is added.
		if field.Same(name, "x-envoy-upstream-service-time") && s.Answered > 0 {
			return strconv.AppendInt(b, s.Answered.Milliseconds(), 10), number
		}
	}
	return b, absent
}

func trailerField(b []byte, s *flow.Observation, p *part) ([]byte, kind) {
	if b, k := appendFirst(b, s.Trailer, p.Arg); k != absent || p.Alt == "" {
		return b, k
	}
	return appendFirst(b, s.Trailer, p.Alt)
}

// grpcStatus is the status of a call, in the trailer or, of an answer without a
// body, in the header.
func grpcStatus(b []byte, s *flow.Observation, _ *part) ([]byte, kind) {
	for _, l := range []field.List{s.Trailer, s.Response} {
		if n, err := strconv.ParseUint(l.Get("grpc-status"), 10, 31); err == nil {
			return strconv.AppendUint(b, n, 10), number
		}
	}
	return b, absent
}

// own is what egressd knows and Envoy has no word for.
func own(b []byte, s *flow.Observation, p *part) ([]byte, kind) {
	switch p.Arg {
	case "COMMAND":
		return appendSaid(b, s.Process.Command)
	case "DETAIL":
		return appendSaid(b, s.Detail)
	case "KIND":
		return appendSaid(b, string(s.Kind))
	case "LAYER":
		return appendSaid(b, string(s.Layer))
	case "PID":
		return appendID(b, s.Process.PID)
	case "UID":
		return strconv.AppendInt(b, int64(s.Process.UID), 10), number
	case "REASON":
		return appendSaid(b, string(s.Reason))
	case "RETRIES":
		return strconv.AppendInt(b, int64(s.Retries), 10), number
	case "RULE":
		if s.Rule == nil {
			return b, absent
		}
		return append(b, s.Rule.String()...), text
	case "VERDICT":
		return append(b, verdict(s)...), text
	}
	return appendSaid(b, s.Workload)
}

func appendID(b []byte, n int) ([]byte, kind) {
	if n == 0 {
		return b, absent
	}
	return strconv.AppendInt(b, int64(n), 10), number
}

// verdict is what happened: the kernel's verdict, or would-deny in audit mode.
func verdict(s *flow.Observation) string {
	switch {
	case s.WouldDeny:
		return WouldDeny
	case !s.Allowed:
		return policy.Deny.String()
	}
	return s.Verdict.String()
}
