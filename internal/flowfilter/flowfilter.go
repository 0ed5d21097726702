// SPDX-License-Identifier: Apache-2.0

// Package flowfilter says which events somebody wants to see: the daemon asks it for its
// own, and the command line for those of a flow log.
package flowfilter

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
)

// The parameters of a filter, in the query of a request. Those but Since and Until may
// have several values, separated by commas, of which one is enough.
const (
	Since     = "since"     // RFC 3339: what ended later
	Until     = "until"     // RFC 3339: what began until then
	Workload  = "workload"  // NAME or NAMESPACE/NAME, * for any text
	Namespace = "namespace" // of the workload
	Host      = "host"      // a name, * for any text
	Address   = "address"   // an address or a prefix
	Port      = "port"
	Verdict   = "verdict" // one of Verdicts
	Reason    = "reason"
	Process   = "process" // a command, * for any text, or a pid
)

// Parameters are the names of all.
var Parameters = []string{Since, Until, Workload, Namespace, Host, Address, Port, Verdict, Reason, Process}

// Verdicts are what a filter may ask for: the kernel's, or allow for all that is no
// denial. deny has what audit mode would deny as well, would-deny that alone.
var Verdicts = []string{"allow", "deny", "direct", "inspect", "proxy", "would-deny"}

// Filter says which events are wanted. The zero value wants all.
type Filter struct {
	since, until time.Time
	workloads    []string
	namespaces   []string
	hosts        []string
	addresses    []netip.Prefix
	ports        []uint16
	verdicts     []string
	reasons      []string
	processes    []string
}

// Parse reads the parameters of a filter; an error names the parameter.
func Parse(q url.Values) (Filter, error) {
	var f Filter
	list := func(name string) []string {
		if q.Get(name) == "" {
			return nil
		}
		return strings.Split(q.Get(name), ",")
	}
	f.workloads, f.namespaces, f.reasons, f.processes = list(Workload), list(Namespace), list(Reason), list(Process)
	for _, h := range list(Host) {
		f.hosts = append(f.hosts, strings.ToLower(strings.TrimSuffix(h, ".")))
	}
	var err error
	if f.since, err = when(q, Since); err != nil {
		return Filter{}, err
	}
	if f.until, err = when(q, Until); err != nil {
		return Filter{}, err
	}
	for _, text := range list(Address) {
		p, err := prefix(text)
		if err != nil {
			return Filter{}, err
		}
		f.addresses = append(f.addresses, p)
	}
	for _, text := range list(Port) {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return Filter{}, fmt.Errorf("%s: %q is no number of a port", Port, text)
		}
		f.ports = append(f.ports, uint16(n))
	}
	for _, v := range list(Verdict) {
		if !slices.Contains(Verdicts, v) {
			return Filter{}, fmt.Errorf("%s: %q is none of %s", Verdict, v, strings.Join(Verdicts, ", "))
		}
		f.verdicts = append(f.verdicts, v)
	}
	return f, nil
}

func when(q url.Values, name string) (time.Time, error) {
	text := q.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fmt.Errorf("%s: %q is no time as in 2026-01-02T15:04:05Z", name, text)
	}
	return t, nil
}

// prefix reads an address or a prefix.
func prefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("%s: %q is no address, and no network as in 10.0.0.0/8 or 2001:db8::/32", Address, text)
	}
	return p.Masked(), nil
}

// Wants says whether an event is wanted. What was lost may have been.
func (f *Filter) Wants(e *flow.Event) bool {
	if !f.since.IsZero() && !e.Time.After(f.since) || !f.until.IsZero() && flowrecord.Begin(e).After(f.until) {
		return false
	}
	if e.Kind == flow.Lost {
		return true
	}
	of, _, described := strings.Cut(e.Workload, "/")
	return one(f.workloads, func(w string) bool { return Like(w, e.Workload) }) &&
		one(f.namespaces, func(ns string) bool { return described && ns == of }) &&
		one(f.hosts, func(h string) bool { return named(e, h) }) &&
		one(f.addresses, func(p netip.Prefix) bool { return p.Contains(plain(e.Dst)) || p.Contains(plain(e.Upstream)) }) &&
		one(f.ports, func(n uint16) bool { return e.Dst.IsValid() && e.Dst.Port() == n }) &&
		one(f.verdicts, func(v string) bool { return has(e, v) }) &&
		one(f.reasons, func(r string) bool { return string(e.Reason) == r }) &&
		one(f.processes, func(p string) bool {
			return Like(p, e.Process.Command) || e.Process.PID > 0 && strconv.Itoa(e.Process.PID) == p
		})
}

// one says whether one of a list is; an empty list asks nothing.
func one[T comparable](list []T, is func(T) bool) bool {
	return len(list) == 0 || slices.ContainsFunc(list, is)
}

func plain(at netip.AddrPort) netip.Addr { return at.Addr().Unmap().WithZone("") }

// named says whether an event is, or may be, about a host.
func named(e *flow.Event, host string) bool {
	is := func(name string) bool {
		return name != "" && Like(host, strings.ToLower(strings.TrimSuffix(name, ".")))
	}
	return is(e.Name) || slices.ContainsFunc(e.Names, is)
}

// has says whether an event has a verdict of Verdicts.
func has(e *flow.Event, verdict string) bool {
	denied := !e.Allowed || e.WouldDeny
	switch {
	case e.Kind == flow.Spoken: // it says what was sent, and its beginning what was decided
		return false
	case verdict == "deny":
		return denied
	case verdict == "allow":
		return !denied
	case verdict == "would-deny":
		return e.WouldDeny
	}
	return e.Allowed && e.Verdict.String() == verdict
}

// Like says whether a text is what a pattern says, in which * stands for any text.
func Like(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, rest, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = rest
	}
	return true
}
