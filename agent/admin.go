// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/observe"
	"github.com/egressd/egressd/agent/report"
	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/explain/learn"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// serveInterfaces opens the interfaces of the daemon.
func (a *Agent) serveInterfaces(ctx context.Context, serve func(func() error)) error {
	metrics := report.Registry(report.Source{
		Status: a.Status, Events: a.recorder.Counts, Dropped: a.recorder.Dropped, LogDropped: a.opts.LogDropped,
		Closed: a.surfaces.Closed, Holding: a.holding.Counts, Upstreams: a.dns.Upstreams,
		Unbound: func() int64 { n, _ := a.workloads.Unbound(); return n },
		Saved:   []string{control.SavedNames, control.SavedPolicy},
	}, append(a.observers.Collectors(), observe.FlowLog(a.flowLog.Stats)...)...)
	view := admin.View{
		Status: func() any { return a.Status() }, Flows: a.recorder, Events: a.recorder, Snapshot: a.control.Snapshot,
		Suggest: func() explain.Suggestions { return a.denied().Suggestions },
		Seen:    a.seen,
		Explain: func(s *policy.Snapshot, q explain.Question) (any, error) {
			q.Mode, q.Bound = a.opts.Mode, a.workloads.ModeOf
			d := a.observers.Defaults(s)
			q.Observed = &d
			return explain.Explain(s, a.names, q)
		},
		Unload:  func() { a.unloadOnce.Do(func() { close(a.unload) }) },
		Reload:  func(ctx context.Context) (any, error) { return a.life.ReloadNow(ctx) },
		Metrics: promhttp.HandlerFor(metrics, promhttp.HandlerOpts{DisableCompression: true}), NotReady: a.ready.Err, Alive: a.check,
		Server: func() admin.About {
			return admin.About{Version: a.opts.Version, Started: a.started, Ready: a.ready.Err() == nil}
		},
		Listeners: a.listeners, Certs: func() any { return a.stock.Status() }, Levels: a.opts.Levels, Profile: a.opts.Profile,
	}
	return a.surfaces.Serve(ctx, serve, admin.Options{
		StateDir: a.opts.StateDir, Group: a.opts.AdminGroup, Log: a.log,
		Change: view.Admin(true),
		Read:   view.Admin(false), AdminAddress: a.opts.AdminAddress,
		Status: view.StatusPort(), StatusAddress: a.opts.StatusAddress,
		Health: view.HealthPort(), HealthAddress: a.opts.HealthAddress,
	})
}

// listeners are the sockets that the daemon listens on, for traffic and for people.
func (a *Agent) listeners() (out []admin.ListenerAt) {
	add := func(name, address string) { out = append(out, admin.ListenerAt{Name: name, Address: address}) }
	for _, ln := range a.sockets.Proxy {
		add("proxy", ln.Addr().String())
	}
	for i, udp := range a.sockets.DNSUDP {
		add("dns-udp", udp[0].LocalAddr().String())
		add("dns-tcp", a.sockets.DNSTCP[i].Addr().String())
	}
	if a.incoming != nil {
		for _, at := range a.incoming.Addresses() {
			add("gateway", at)
		}
	}
	for _, i := range []struct{ name, at string }{{"admin", a.opts.AdminAddress}, {"status", a.opts.StatusAddress}, {"health", a.opts.HealthAddress}} {
		addrs, _ := admin.Addresses(i.at) // it was checked; "" has none
		for _, one := range addrs {
			add(i.name, one)
		}
	}
	return out
}

// denied sums up what was denied so far, with what would allow it: by the policy of
// everything that has no other, and by the files as they are now.
func (a *Agent) denied() explain.DenialSummary {
	d := explain.Summarize(a.recorder.Denials())
	files, err := a.control.Files()
	if err != nil {
		files = nil // objects are suggested anew then
	}
	d.Suggestions = explain.SuggestAll(d.List, a.opts.Mode, a.control.Policy(policy.DefaultPolicy), files)
	return d
}

// seen is where the workloads went, allowed and denied.
func (a *Agent) seen() (learn.Recording, error) {
	events, folded := a.recorder.Seen()
	lost := 0
	if counters, err := a.datapath.Counters(); err == nil {
		lost = int(counters[telemetry.CounterLost])
	}
	return learn.Record(a.started, events, folded, lost, a.control.Snapshot())
}
