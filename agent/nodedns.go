// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/policy/source"
)

// nodeDNS follows how the node resolves names: the servers, search suffixes and
// times of its resolv.conf, for as far as the options don't say them.
type nodeDNS struct {
	log   *slog.Logger
	files []string
	// given are the options: they come first.
	given dnsproxy.Upstreams
	// loops says whether a server is egressd itself.
	loops   func(netip.AddrPort) bool
	watcher *source.Watcher

	mu  sync.Mutex
	now dnsproxy.Upstreams
	err string // what was wrong with the files
}

// newNodeDNS starts watching the files and reads them. Its run must follow, or
// its stop.
func newNodeDNS(o Options, files []string, loops func(netip.AddrPort) bool) (*nodeDNS, error) {
	n := &nodeDNS{
		log: o.Log, files: files, loops: loops,
		given: dnsproxy.Upstreams{Servers: o.DNSServers, Timeout: o.DNSTimeout, Attempts: o.DNSAttempts},
	}
	for _, s := range o.DNSServers {
		if loops(s) {
			return nil, fmt.Errorf("--dns-server %s is egressd's own listener; name a server that resolves", s)
		}
	}
	n.watcher = source.NewWatcher(files, o.Log)
	now, err := n.look()
	if err != nil {
		if len(now.Servers) == 0 && !o.locks {
			n.stop()
			return nil, err
		}
		o.Log.Warn("not all that the node says about its DNS servers can be used; the rest counts", "error", err)
	}
	n.now = now
	return n, nil
}

// errNoServer: resolv.conf names none.
var errNoServer = errors.New("no DNS server in /etc/resolv.conf; give one with --dns-server, or start again when the node has one")

// look reads the files. With an error, what could be read is returned as well.
func (n *nodeDNS) look() (dnsproxy.Upstreams, error) {
	u, err := dnsproxy.ReadNode(n.files)
	u.Timeout = cmp.Or(n.given.Timeout, u.Timeout)
	u.Attempts = cmp.Or(n.given.Attempts, u.Attempts)
	if len(n.given.Servers) > 0 {
		u.Servers = n.given.Servers
		return u, err
	}
	u.Servers = slices.DeleteFunc(u.Servers, func(s netip.AddrPort) bool {
		loop := n.loops(s)
		if loop {
			err = errors.Join(err, fmt.Errorf("server %s is egressd's own listener and is left out", s))
		}
		return loop
	})
	if len(u.Servers) == 0 {
		err = errors.Join(err, errNoServer)
	}
	return u, err
}

// current is how names are resolved now.
func (n *nodeDNS) current() dnsproxy.Upstreams {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

// read reads the files again, and gives apply what is new. Files without a
// server, or with errors, leave what was there before.
func (n *nodeDNS) read(apply func(dnsproxy.Upstreams)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	u, err := n.look()
	if err != nil {
		if n.err != err.Error() {
			n.log.Warn("what the node says about its DNS servers can't be used; those from before are asked until it is mended",
				"error", err, "servers", serverList(n.now.Servers))
		}
		n.err = err.Error()
		return
	}
	mended := n.err != ""
	n.err = ""
	switch {
	case !reflect.DeepEqual(u, n.now):
		n.log.Info("the node's resolv.conf has changed and counts", "servers", serverList(u.Servers), "search", u.Search)
		n.now = u
		apply(u)
	case mended:
		n.log.Info("the node's resolv.conf is good again, and as it was", "servers", serverList(u.Servers))
	}
}

// run follows the files until ctx ends.
func (n *nodeDNS) run(ctx context.Context, apply func(dnsproxy.Upstreams)) {
	n.watcher.Run(ctx, func() { n.read(apply) })
}

// stop releases the watch of one that does not run.
func (n *nodeDNS) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.watcher.Run(ctx, func() {})
}

func serverList(servers []netip.AddrPort) string {
	out := make([]string, len(servers))
	for i, s := range servers {
		out[i] = s.String()
	}
	return strings.Join(out, ", ")
}

// isOwnDNS says whether a server is one of egressd's own DNS listeners, which
// answer nobody but who was redirected to them.
func (a *Agent) isOwnDNS(server netip.AddrPort) bool {
	ports := a.sockets.Ports()
	addr := server.Addr().Unmap()
	if !addr.IsLoopback() && !addr.IsUnspecified() && !a.addresses.Has(addr) {
		return false
	}
	return server.Port() == ports.DNSTCP || slices.Contains(ports.DNSUDP[:], server.Port())
}

// degradedDNS says in words which servers are down, and what that means; "":
// none is. It makes egressd no less ready: what goes straight goes on, and so
// does what is open.
func degradedDNS(servers []dnsproxy.UpstreamStatus) string {
	var down []string
	for _, s := range servers {
		if s.State == "down" {
			down = append(down, s.Server)
		}
	}
	switch len(down) {
	case 0:
		return ""
	case len(servers):
		return "no DNS server answers: hosts that the policy names exactly have their last answer for a while, other names fail"
	}
	return fmt.Sprintf("%d of %d DNS servers do not answer (%s); the others are asked", len(down), len(servers), strings.Join(down, ", "))
}

// upstreamMetrics are those of the DNS servers.
type upstreamMetrics struct {
	servers func() []dnsproxy.UpstreamStatus
}

var (
	dnsUpDesc = prometheus.NewDesc("egressd_dns_server_up",
		"0 when a trusted DNS server does not answer and is asked behind the others.", []string{"server"}, nil)
	dnsAskedDesc = prometheus.NewDesc("egressd_dns_server_questions_total",
		"Questions to a trusted DNS server by what came of them: answered (with any code) or failed.", []string{"server", "result"}, nil)
)

func (m upstreamMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- dnsUpDesc
	ch <- dnsAskedDesc
}

func (m upstreamMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, s := range m.servers() {
		ch <- prometheus.MustNewConstMetric(dnsUpDesc, prometheus.GaugeValue, truth(s.State != "down"), s.Server)
		ch <- prometheus.MustNewConstMetric(dnsAskedDesc, prometheus.CounterValue, float64(s.Answered), s.Server, "answered")
		ch <- prometheus.MustNewConstMetric(dnsAskedDesc, prometheus.CounterValue, float64(s.Failed), s.Server, "failed")
	}
}
