// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// Merged is a file's text with the objects of a policy: an object of the same name keeps
// the ports that it has.
func (p Proposal) Merged(old string) (string, error) {
	objects, err := p.Objects()
	if err != nil || len(objects) == 0 {
		return old, err
	}
	out, err := istio.Widen([]byte(old), []byte(strings.Join(objects, "---\n")))
	return string(out), err
}

// Denied are the destinations that a policy denies, one line each.
func (l *Learner) Denied(s *policy.Snapshot) (out []string) {
	for _, r := range l.sorted() {
		if r.allowedBy(policyOf(s, r.workload)) {
			continue
		}
		what := r.host
		if what == "" {
			what = r.addr.String()
		}
		transport := policy.TCP
		if r.udp {
			transport = policy.UDP
		}
		out = append(out, fmt.Sprintf("%s port %d/%s of %s", word(what), r.port, transport, word(orNode(r.workload))))
	}
	return out
}

func orNode(workload string) string {
	if workload == "" {
		return "the node"
	}
	return workload
}

// daemonFile is how findings call what Described makes.
const daemonFile = "(workloads of the daemon)"

// Described are workloads as a file of a policy, for one that does not describe them:
// those that it does describe are left out.
func Described(identities []policy.Identity, s *policy.Snapshot) (istio.File, error) {
	known := map[string]bool{}
	for _, id := range IdentitiesOf(s) {
		known[id.Key()] = true
	}
	var b strings.Builder
	enc := yaml.NewEncoder(&b)
	for i, id := range identities {
		if known[id.Key()] {
			continue
		}
		spec := map[string]any{"cgroups": []string{fmt.Sprintf("learned-%d", i)}} // of nobody
		if id.ServiceAccount != "" {
			spec["serviceAccount"] = id.ServiceAccount
		}
		meta := map[string]any{"name": id.Name, "namespace": id.Namespace}
		if len(id.Labels) > 0 {
			meta["labels"] = id.Labels
		}
		if err := enc.Encode(map[string]any{"apiVersion": "egressd.dev/v1", "kind": "Workload", "metadata": meta, "spec": spec}); err != nil {
			return istio.File{}, fmt.Errorf("write the workload %s: %w", id.Key(), err)
		}
	}
	if b.Len() == 0 {
		return istio.File{Name: daemonFile}, nil
	}
	return istio.File{Name: daemonFile, Data: []byte(b.String())}, enc.Close()
}
