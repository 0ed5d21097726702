// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/agent"
)

// dnsFlags say how queries are answered and how long answers count.
type dnsFlags struct {
	denied         string
	min, max, over time.Duration
}

// maxDNSTime bounds the times of dnsFlags: a learned address that stays for
// longer is likely somebody else's by then.
const maxDNSTime = 24 * time.Hour

func (f *dnsFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.denied, "dns-denied-rcode", dnsproxy.DenyAbsent.String(), "how DNS answers for a name that is not allowed: NXDOMAIN, REFUSED (musl waits 5 s at it) or NOERROR")
	fs.DurationVar(&f.min, "dns-min-ttl", dnsproxy.DefaultFloor, "the least time that a DNS answer counts, whatever its TTL")
	fs.DurationVar(&f.max, "dns-max-ttl", dnsproxy.DefaultCap, "the most time that a DNS answer counts, and that programs are told")
	fs.DurationVar(&f.over, "dns-grace", dnsproxy.DefaultGrace, "how long an address stays open after its answer's time")
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
	o.DNSMinTTL, o.DNSMaxTTL, o.DNSGrace = f.min, f.max, f.over
	return nil
}
