// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import "sync/atomic"

// counter indexes the server's counts.
type counter int

const (
	cQueryUDP counter = iota
	cQueryTCP
	cNoOrigin
	cMalformed
	cOverload
	cConnOverload
	cDenied
	cWouldDeny
	cDeniedType
	cSearch
	cLocal
	cForwarded
	cUpstreamShared
	cUpstreamTCP
	cUpstreamIgnored
	cUpstreamFailed
	cUpstreamBusy
	cLocalFailed
	cStale
	cNoUpstream
	cLoop
	cLoopSuspected
	cAddrRefused
	cStripped
	cLearned
	cLearnFull
	cLearnKernel
	cLearnChanged
	cTruncated
	cKept
	cKeptFailed
	cResolve
	cResolveCached
	cResolveStale
	cSendFailed
	cPanic
	counters
)

var counterNames = [counters]string{
	"queries_udp", "queries_tcp", "no_origin", "malformed", "overload", "connection_overload",
	"denied", "would_deny", "denied_type", "search_suffix", "answered_locally",
	"forwarded", "upstream_shared", "upstream_tcp", "upstream_ignored", "upstream_failed", "upstream_busy", "node_resources", "stale", "no_upstream", "loop", "loop_suspected",
	"address_refused", "records_stripped", "learned", "learn_full", "learn_kernel_error", "learn_policy_changed",
	"truncated", "kept_asked", "kept_failed", "resolve", "resolve_cached", "resolve_stale", "send_failed", "panics",
}

type stats [counters]atomic.Uint64

func (s *stats) add(c counter) { s[c].Add(1) }

// Stats returns the server's counts by name. The names are stable.
func (s *Server) Stats() map[string]uint64 {
	out := make(map[string]uint64, counters+1)
	out["names_evicted"] = s.names.Evicted()
	for i := range s.stats {
		out[counterNames[i]] = s.stats[i].Load()
	}
	return out
}
