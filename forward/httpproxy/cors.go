// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net/http"
	"slices"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// preflight answers a preflight request by the CORS policy of a rule, the i-th
// on the way; false: it is not for it. What the rules before it do to answers
// is done to this one.
func (x *exchange) preflight(a *policy.HTTPAction, i int) bool {
	fields, ok := a.Preflight(x.decision.RequestAt(i, &x.req))
	if !ok {
		return false
	}
	h := x.w.Header()
	setFields(h, fields)
	x.passBack(h, i)
	x.ours(h)
	x.writeStatus(http.StatusOK)
	return true
}

// passBack does to an answer what the first n rules on the way do to it, the
// last one first.
func (x *exchange) passBack(h *field.List, n int) {
	hops := x.decision.Hops()[:n]
	for i, hop := range slices.Backward(hops) {
		x.changeResponse(h, hop.Action, hop.To)
		setFields(h, hop.Action.CORS(x.decision.RequestAt(i, &x.req)))
	}
}

// share sets in an answer the fields of the CORS policy of the last rule.
func (x *exchange) share(h *field.List) {
	setFields(h, x.decision.Action.CORS(x.decision.Request(&x.req)))
}

func setFields(h *field.List, fields []policy.Header) {
	for _, f := range fields {
		h.Set(f.Name, f.Value)
	}
}
