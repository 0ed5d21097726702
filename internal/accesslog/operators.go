// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// kind is what a value is.
type kind uint8

const (
	absent kind = iota
	text
	number
)

// operator is a command operator. value appends its value to b, raw.
type operator struct {
	name     string
	value    func(b []byte, s *flow.Observation, p *part) ([]byte, kind)
	argument func(name, arg string) error
	fields   bool // the argument names a field of a message, and maybe another one
}

// operators are those that there are, by name.
var operators = []operator{
	{name: "BYTES_RECEIVED", value: counted(func(s *flow.Observation) int64 { return s.BytesSent })},
	{name: "BYTES_SENT", value: counted(func(s *flow.Observation) int64 { return s.BytesReceived })},
	{name: "CONNECTION_TERMINATION_DETAILS", value: said(termination)},
	{name: "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", value: at(source)},
	{name: "DOWNSTREAM_LOCAL_ADDRESS", value: dialledAt},
	{name: "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", value: address(dialled)},
	{name: "DOWNSTREAM_LOCAL_PORT", value: port(dialled)},
	{name: "DOWNSTREAM_REMOTE_ADDRESS", value: at(source)},
	{name: "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", value: address(source)},
	{name: "DOWNSTREAM_REMOTE_PORT", value: port(source)},
	{name: "DURATION", value: counted(func(s *flow.Observation) int64 { return s.Duration.Milliseconds() })},
	{name: "EGRESSD", value: own, argument: oneOf("COMMAND", "DETAIL", "KIND", "LAYER", "PID", "REASON", "RETRIES", "RULE", "UID", "VERDICT", "WORKLOAD")},
	{name: "GRPC_STATUS_NUMBER", value: grpcStatus},
	{name: "HOSTNAME", value: said(func(*flow.Observation) string { name, _ := os.Hostname(); return name })},
	{name: "PROTOCOL", value: protocol},
	{name: "REQ", value: requestField, argument: fieldName, fields: true},
	{name: "REQUESTED_SERVER_NAME", value: said(serverName)},
	{name: "RESP", value: responseField, argument: fieldName, fields: true},
	{name: "RESPONSE_CODE", value: counted(func(s *flow.Observation) int64 { return int64(s.Status) })},
	{name: "RESPONSE_CODE_DETAILS", value: codeDetails},
	{name: "RESPONSE_FLAGS", value: flags},
	{name: "ROUTE_NAME", value: said(func(s *flow.Observation) string { return s.Route })},
	{name: "START_TIME", value: startTime, argument: timeFormat},
	{name: "TRACE_ID", value: said(func(s *flow.Observation) string { return s.TraceID })},
	{name: "TRAILER", value: trailerField, argument: fieldName, fields: true},
	{name: "UPSTREAM_CLUSTER", value: cluster},
	{name: "UPSTREAM_CLUSTER_RAW", value: cluster},
	{name: "UPSTREAM_HOST", value: at(upstream)},
	{name: "UPSTREAM_LOCAL_ADDRESS", value: at(func(*flow.Observation) netip.AddrPort { return netip.AddrPort{} })},
	{name: "UPSTREAM_REQUEST_ATTEMPT_COUNT", value: counted(attempts)},
	{name: "UPSTREAM_TRANSPORT_FAILURE_REASON", value: said(transportFailure)},
}

// Operators are the names of the command operators, sorted.
func Operators() []string {
	names := make([]string, len(operators))
	for i := range operators {
		names[i] = operators[i].name
	}
	return names
}

func operatorOf(name string) *operator {
	at, ok := slices.BinarySearchFunc(operators, name, func(o operator, name string) int { return strings.Compare(o.name, name) })
	if !ok {
		return nil
	}
	o := operators[at]
	if o.argument == nil {
		o.argument = noArgument
	}
	return &o
}

func noArgument(name, arg string) error {
	if arg != "" {
		return fmt.Errorf("%%%s%% takes no argument", name)
	}
	return nil
}

func oneOf(words ...string) func(name, arg string) error {
	return func(name, arg string) error {
		if !slices.Contains(words, arg) {
			return fmt.Errorf("%%%s(%s)%%: the argument is one of %s", name, arg, strings.Join(words, ", "))
		}
		return nil
	}
}

// secret are fields that no line shows: who reads a log would have what they open.
var secret = []string{"Authorization", "Cookie", "Proxy-Authorization", "Set-Cookie"}

func fieldName(name, arg string) error {
	first, second, two := strings.Cut(arg, "?")
	for _, n := range []string{first, second} {
		if n == "" && (two || n == first) {
			return fmt.Errorf("%%%s(%s)%%: name a field, or two as in %%%s(X?Y)%%", name, arg, name)
		}
		if slices.ContainsFunc(secret, func(s string) bool { return field.Same(s, n) }) {
			return fmt.Errorf("%%%s(%s)%%: %s has credentials, which no log shows", name, arg, n)
		}
	}
	return nil
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
	return appendTime(b, s.Time.Add(-s.Duration).UTC(), p.arg), text
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

// serverName is the name in the ClientHello.
func serverName(s *flow.Observation) string {
	if s.Proto == "tls" || s.Layer == flow.Kernel && s.Verdict == policy.Inspect {
		return s.Name
	}
	return ""
}

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
	b, k := fieldOfRequest(b, s, p.arg)
	if k == absent && p.alt != "" {
		return fieldOfRequest(b, s, p.alt)
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
	for _, name := range []string{p.arg, p.alt} {
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
	if b, k := appendFirst(b, s.Trailer, p.arg); k != absent || p.alt == "" {
		return b, k
	}
	return appendFirst(b, s.Trailer, p.alt)
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
	switch p.arg {
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
