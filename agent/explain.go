// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"net/http"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/policy"
)

// serveExplain answers "egressd explain" with the live policy.
func (a *Agent) serveExplain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	t, err := explain.ParseTarget(q.Get("target"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	header, err := explain.ParseHeader(q["header"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s := a.control.Snapshot()
	if s == nil {
		http.Error(w, "no policy yet", http.StatusServiceUnavailable)
		return
	}
	x, err := explain.Explain(s, a.names, explain.Question{
		Target: t, Method: cmp.Or(q.Get("method"), http.MethodGet), Header: header, Workload: q.Get("workload"),
		Mode: a.opts.Mode, Bound: a.workloads.ModeOf,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, x)
}

// denied sums up what was denied so far, with what would allow it.
func (a *Agent) denied() explain.DenialSummary {
	d := explain.Summarize(a.recorder.Denials())
	d.Suggestions = a.suggestions(d)
	return d
}

// suggestions are by the policy of everything that has no other, and by the
// files as they are now.
func (a *Agent) suggestions(d explain.DenialSummary) explain.Suggestions {
	files, err := a.control.Files()
	if err != nil {
		files = nil // objects are suggested anew then
	}
	return explain.SuggestAll(d.List, a.opts.Mode, a.control.Policy(policy.DefaultPolicy), files)
}
