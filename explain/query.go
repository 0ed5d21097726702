// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// ExplainQuery says what would become of a DNS question of a workload for a name, and
// why. workload is Question's.
func ExplainQuery(s *policy.Snapshot, workload, name string) (Explanation, error) {
	p, _, err := policyOf(s, workload)
	if err != nil {
		return Explanation{}, err
	}
	host, err := hostname.Normalize(name)
	if err != nil {
		return Explanation{}, err
	}
	x := explainer{Explanation: Explanation{Target: name}, p: p, t: Target{text: name, host: host}}
	x.resolves()
	q := p.DecideQuery(host)
	x.Verdict, x.Reason, x.Rule = q.Verdict, q.Reason, q.Rule
	x.Allowed = q.Verdict != policy.Deny
	x.Passes = x.Allowed
	return x.Explanation, nil
}
