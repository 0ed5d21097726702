// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"net/http"

	"github.com/egressd/egressd/agent/admin/ui"
	"github.com/egressd/egressd/explain"
)

// serveState says whether the daemon is ready, as Envoy does.
func (s View) serveState(w http.ResponseWriter, _ *http.Request) {
	about := s.Server()
	if !about.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, about.state())
}

// serveHelp lists what there is to read.
func (s View) serveHelp(w http.ResponseWriter, change bool) {
	fmt.Fprintln(w, "admin commands are:")
	for _, c := range []struct {
		path, text string
		there      bool
	}{
		{PathCerts, "the certificates in use, without keys", true},
		{PathClusters, "where the policy leads, by Istio's names of clusters", true},
		{PathConfig, "the policy in force, in egressd's own words", true},
		{PathProfile, "profiles of the process", s.Profile},
		{explain.Path + "?target=URL", "what becomes of a request, and why (method, header, workload)", true},
		{PathFlows, "what happened last (follow=1: what happens)", true},
		{PathHelp, "this list", true},
		{PathListeners, "the sockets that egressd listens on (format=json)", true},
		{PathLogging, "the levels of the log; the unix socket changes them", true},
		{PathReady, "LIVE, or INITIALIZING with 503", true},
		{PathReload, "POST: reads the policy again", change},
		{PathSeen, "where workloads went, to learn a policy from", true},
		{PathServerInfo, "version, state and since when", true},
		{PathStats, "the metrics (format=text, json, prometheus; filter=REGEX; usedonly)", true},
		{"/stats/prometheus", "the metrics for Prometheus", true},
		{PathStatus, "the state of the daemon", true},
		{PathSuggest, "what would allow what was denied", true},
		{ui.Path, "the web page", !change && s.Events != nil},
		{PathUnload, "POST: removes everything and ends", change},
	} {
		if c.there {
			fmt.Fprintf(w, "  %s: %s\n", c.path, c.text)
		}
	}
}
