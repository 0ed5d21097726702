// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// seen is an event of audit mode: nobody read what is sent.
func seen(workload, name, dst string, transport policy.Transport) flow.Event {
	return flow.Event{
		Time: start, Kind: flow.Decision, Layer: flow.Kernel, Workload: workload, Process: flow.Process{PID: 7, Command: "curl"},
		Transport: transport, Proto: transport.String(), Dst: netip.MustParseAddrPort(dst), Name: name,
		Allowed: true, WouldDeny: true, Reason: policy.ReasonNoRule,
	}
}

// spoke is an event of an allowed flow that was read, or not ("").
func spoke(proto string, e flow.Event) flow.Event {
	e.WouldDeny, e.Reason, e.Rule = false, policy.ReasonAllowed, &policy.Ref{Kind: "ServiceEntry", Name: "old"}
	switch proto {
	case "tls":
		e.Verdict = policy.Inspect
	case "http":
		e.Kind, e.Layer, e.Verdict, e.Proto, e.Method = flow.Request, flow.Egress, policy.Proxy, "http", "GET"
	default:
		e.Verdict = policy.Direct
	}
	return e
}

func learnt(t testing.TB, since time.Time, events ...flow.Event) *Learner {
	t.Helper()
	l := New(since, "")
	for _, e := range events {
		l.Add(e)
	}
	return l
}

func text(t testing.TB, p Proposal) string {
	t.Helper()
	out, err := p.YAML("learned in a test")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// compiled is a policy with the workloads of the test, which has no finding.
func compiled(t testing.TB, yaml string) *policy.Snapshot {
	t.Helper()
	const workloads = `apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroups: [web]}
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {cgroups: [db]}
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: one, namespace: other}
spec: {cgroups: [one]}
`
	l, err := load.With([]istio.File{{Name: "workloads.yaml", Data: []byte(workloads)}, {Name: "learned.yaml", Data: []byte(yaml)}}, istio.Options{})
	if err != nil || len(l.Findings) > 0 {
		t.Fatalf("%v: %v\n%s", err, l.Findings, yaml)
	}
	return l.Snapshot
}

var identities = []policy.Identity{
	{Name: "web", Namespace: "shop", Labels: map[string]string{"app": "web", "pod-template-hash": "x"}},
	{Name: "db", Namespace: "shop", Labels: map[string]string{"app": "db"}},
	{Name: "one", Namespace: "other"},
}

// flows makes random ones. A name has addresses of its own, and private ones are of
// names that are no generated ones.
func flows(r *rand.Rand) (out []flow.Event) {
	workloads := []string{"node", "node", "shop/web", "shop/db", "other/one"}
	names := []string{"a.example.com", "b.example.com", "db.internal.example", "a-b.example.com", "www.cdn.example.net", "edge.cdn.example.net", "x.github.io"}
	for i := range 12 {
		names = append(names, fmt.Sprintf("e%x7f3a9b2c.cdn.example.net", i), fmt.Sprintf("user%d123.github.io", i))
	}
	ports := []uint16{80, 443, 443, 5432, 8443, 9000, 853}
	for range 1 + r.IntN(60) {
		w, port := workloads[r.IntN(len(workloads))], ports[r.IntN(len(ports))]
		n := r.IntN(len(names) + 6)
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 1, 113, byte(n)}), port)
		if r.IntN(2) == 0 {
			dst = netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2a00:db8::%x", n+1)), port)
		}
		name := ""
		if n < len(names) {
			name = names[n]
		}
		e := seen(w, name, dst.String(), policy.TCP)
		switch r.IntN(6) {
		case 0:
			e.Transport, e.Proto = policy.UDP, "udp"
		case 1:
			if name != "" {
				e = spoke("tls", e)
			}
		case 2:
			if name != "" {
				e = spoke("http", e)
			}
		case 3:
			e = spoke("", e)
		case 4:
			if name != "" {
				e.Reason = policy.ReasonNotTLS
			}
		}
		e.Time = start.Add(time.Duration(r.IntN(3600)) * time.Second)
		out = append(out, e)
	}
	return out
}

// denies says which rows a policy denies.
func denies(l *Learner, s *policy.Snapshot) (out []string) {
	for _, r := range l.sorted() {
		if !r.allowedBy(policyOf(s, r.workload)) {
			out = append(out, fmt.Sprintf("%+v %+v", r.key, r.spoken))
		}
	}
	return out
}

// TestAllowsAllAndNoMore: of random flows a policy is made that allows each of them, has
// no finding, is the same whatever the order, and needs each of its parts.
func TestAllowsAllAndNoMore(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		events := flows(r)
		o := Options{Identities: identities}
		l := learnt(t, time.Time{}, events...)
		out := text(t, l.Propose(o))
		if no := denies(l, compiled(t, out)); len(no) > 0 {
			t.Fatalf("seed %d: %s\nis denied by\n%s", seed, strings.Join(no, "\n"), out)
		}
		r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		if again := text(t, learnt(t, time.Time{}, events...).Propose(o)); again != out {
			t.Fatalf("seed %d: in another order it is\n%s\nand not\n%s", seed, again, out)
		}
		if seed%4 == 0 {
			for what, less := range reductions(t, out) {
				if s := tryCompile(less); s != nil && len(denies(l, s)) == 0 {
					t.Fatalf("seed %d: without %s all is allowed as well:\n%s", seed, what, out)
				}
			}
		}
		l.Drop(compiled(t, out))
		if p := l.Propose(o); !p.Empty() {
			t.Fatalf("seed %d: what is allowed is proposed again:\n%s", seed, text(t, p))
		}
	}
}

func tryCompile(yaml string) *policy.Snapshot {
	const workloads = "apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: %s, namespace: %s, labels: {app: %s}}\nspec: {cgroups: [%s]}\n---\n"
	all := ""
	for _, id := range identities {
		label := id.Labels["app"]
		all += fmt.Sprintf(workloads, id.Name, id.Namespace, label, id.Name)
	}
	l, err := load.With([]istio.File{{Name: "w.yaml", Data: []byte(strings.ReplaceAll(all, "{app: }", "{}"))}, {Name: "l.yaml", Data: []byte(yaml)}}, istio.Options{})
	if err != nil {
		return nil
	}
	return l.Snapshot
}

// reductions are a policy without each of its entries, ports, and hosts of Sidecars.
func reductions(t *testing.T, text string) map[string]string {
	t.Helper()
	type doc = map[string]any
	read := func() (out []doc) {
		for dec := yaml.NewDecoder(strings.NewReader(text)); ; {
			var d doc
			if dec.Decode(&d) != nil {
				return out
			}
			if d != nil {
				out = append(out, d)
			}
		}
	}
	write := func(docs []doc) string {
		var b strings.Builder
		for _, d := range docs {
			part, err := yaml.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			b.WriteString("---\n" + string(part))
		}
		return b.String()
	}
	out := map[string]string{}
	for i, d := range read() {
		name := fmt.Sprint(d["kind"], " ", d["metadata"].(doc)["name"])
		spec := d["spec"].(doc)
		if d["kind"] == "Sidecar" {
			for j, l := range spec["egress"].([]any) {
				for k := range l.(doc)["hosts"].([]any) {
					docs := read()
					listener := docs[i]["spec"].(doc)["egress"].([]any)[j].(doc)
					listener["hosts"] = slices.Delete(listener["hosts"].([]any), k, k+1)
					if len(listener["hosts"].([]any)) == 0 {
						listener["hosts"] = []any{"./nothing.example"}
					}
					out[fmt.Sprint(name, " host ", j, " ", k)] = write(docs)
				}
			}
			continue
		}
		docs := read()
		out[name] = write(slices.Delete(docs, i, i+1))
		ports := spec["ports"].([]any)
		for j := range ports {
			if len(ports) > 1 {
				docs := read()
				s := docs[i]["spec"].(doc)
				s["ports"] = slices.Delete(s["ports"].([]any), j, j+1)
				out[fmt.Sprint(name, " port ", j)] = write(docs)
			}
		}
	}
	return out
}

// TestSpoken: first bytes that audit mode told say the protocol, whatever the port, and
// count for nothing else.
func TestSpoken(t *testing.T) {
	for _, c := range []struct{ dst, proto, want string }{
		{"203.1.113.1:443", "tcp", "name: tcp-443"},
		{"203.1.113.1:443", "tls", "name: https-443"},
		{"203.1.113.1:8443", "tls", "name: https-8443"},
		{"203.1.113.1:9999", "tls", "name: tls-9999"},
		{"203.1.113.1:9999", "http", "name: http-9999"},
		{"203.1.113.1:80", "tls", "name: tls-80"},
		{"203.1.113.1:80", "tcp", "name: tcp-80"},
	} {
		begins := seen("", "a.example", c.dst, policy.TCP)
		says := begins
		says.Kind, says.Proto = flow.Spoken, c.proto
		l := learnt(t, time.Time{}, begins, says)
		out := text(t, l.Propose(Options{}))
		if !strings.Contains(out, c.want+"\n") || !strings.Contains(out, "# once at") || strings.Contains(out, "nobody read") {
			t.Errorf("%s %s: no %q in\n%s", c.dst, c.proto, c.want, out)
		}
		if no := denies(l, compiled(t, out)); len(no) > 0 {
			t.Errorf("%v is denied by\n%s", no, out)
		}
	}
}
