// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/learned"
)

// dnsFlags say how queries are answered and how long answers count.
type dnsFlags struct {
	denied         string
	min, max, over time.Duration
	timeout, stale time.Duration
	attempts       int
}

// Bounds of --dns-timeout and --dns-attempts, those of resolv.conf(5).
const (
	minDNSTimeout  = 100 * time.Millisecond
	maxDNSTimeout  = 30 * time.Second
	maxDNSAttempts = 5
)

// maxDNSTime bounds the times of dnsFlags: a learned address that stays for
// longer is likely somebody else's by then.
const maxDNSTime = 24 * time.Hour

func (f *dnsFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.denied, "dns-denied-rcode", dnsproxy.DenyAbsent.String(), "DNS response code for a name that is not allowed: NXDOMAIN, REFUSED (musl waits 5 s then) or NOERROR")
	fs.DurationVar(&f.min, "dns-min-ttl", learned.DefaultFloor, "shortest time that a DNS answer counts, whatever its TTL")
	fs.DurationVar(&f.max, "dns-max-ttl", learned.DefaultCap, "longest time that a DNS answer counts, and longest TTL that programs get")
	fs.DurationVar(&f.over, "dns-grace", learned.DefaultGrace, "how long an address stays open after its answer has expired")
	fs.DurationVar(&f.timeout, "dns-timeout", 0, "how long egressd waits for a DNS server before it asks again (default: resolv.conf's option timeout, or 2s)")
	fs.IntVar(&f.attempts, "dns-attempts", 0, "how often a DNS server that does not answer is asked (default: resolv.conf's option attempts, or 2)")
	fs.DurationVar(&f.stale, "dns-stale", dnsproxy.DefaultStale, "how long the last answer for a host that is named exactly is used after it has expired, while no DNS server answers; 0: not at all")
}

func (f *dnsFlags) options(o *agent.Options) (err error) {
	if o.DNSDenied, err = dnsproxy.ParseDenial(f.denied); err != nil {
		return fmt.Errorf("--dns-denied-rcode: %w", err)
	}
	for _, t := range []struct {
		flag  string
		value time.Duration
	}{{"dns-min-ttl", f.min}, {"dns-max-ttl", f.max}, {"dns-grace", f.over}} {
		if t.value < time.Second || t.value > maxDNSTime {
			return fmt.Errorf("--%s is from 1s to 24h, not %s", t.flag, t.value)
		}
	}
	if f.min > f.max {
		return fmt.Errorf("--dns-min-ttl (%s) is longer than --dns-max-ttl (%s)", f.min, f.max)
	}
	if f.timeout != 0 && (f.timeout < minDNSTimeout || f.timeout > maxDNSTimeout) {
		return fmt.Errorf("--dns-timeout is from 100ms to 30s, not %s", f.timeout)
	}
	if f.attempts < 0 || f.attempts > maxDNSAttempts {
		return fmt.Errorf("--dns-attempts is from 1 to %d, not %d", maxDNSAttempts, f.attempts)
	}
	if f.stale < 0 || f.stale > maxDNSTime {
		return fmt.Errorf("--dns-stale is from 0 to 24h, not %s", f.stale)
	}
	o.DNSTimeout, o.DNSAttempts, o.DNSStale = f.timeout, f.attempts, f.stale
	o.DNSMinTTL, o.DNSMaxTTL, o.DNSGrace = f.min, f.max, f.over
	return nil
}

// dnsRows are the rows of the status about DNS servers that do not answer.
func dnsRows(row func(k, format string, args ...any), s agent.Status) {
	for _, u := range s.DNSUpstreams {
		if u.State == "down" {
			row("DNS SERVER DOWN", "%s, since %s: %s", u.Server, u.Since.Local().Format("15:04:05"), u.LastError)
		}
	}
	if s.DNSDegraded != "" {
		row("DEGRADED", "%s", s.DNSDegraded)
	}
	if n := s.DNS["stale"]; n > 0 {
		row("dns", "%d old answers were given while no server answered", n)
	}
}
