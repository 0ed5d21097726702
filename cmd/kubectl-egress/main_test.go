// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeKubectl answers calls by what their command line begins with, and notes them.
type fakeKubectl struct {
	mu      sync.Mutex
	calls   []string
	stdin   map[string]string
	answers map[string]answered
}

// answered is what a call prints and how it ends.
type answered struct {
	out, said string
	err       error
	hangs     bool
}

var errExit = errors.New("exit status 1")

func (f *fakeKubectl) run(ctx context.Context, c call) error {
	line := strings.Join(c.args, " ")
	f.mu.Lock()
	f.calls = append(f.calls, line)
	if c.stdin != nil {
		data, _ := io.ReadAll(c.stdin)
		f.stdin[line] = string(data)
	}
	best := ""
	for prefix := range f.answers {
		if strings.HasPrefix(line, prefix) && len(prefix) > len(best) {
			best = prefix
		}
	}
	a, ok := f.answers[best]
	f.mu.Unlock()
	if !ok {
		fmt.Fprintf(c.stderr, "no such call: %s", line)
		return errExit
	}
	if a.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	_, _ = io.WriteString(c.stdout, a.out)
	_, _ = io.WriteString(c.stderr, a.said)
	return a.err
}

// pod is one of egressd's, as kubectl prints it.
func pod(name, node, made string, ready bool) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"creationTimestamp":%q},"spec":{"nodeName":%q},"status":{"conditions":[{"type":"Ready","status":%q}]}}`,
		name, made, node, map[bool]string{true: "True", false: "False"}[ready])
}

const (
	getPods = "get pods --namespace egressd-system"
	onA     = "exec --namespace egressd-system new-a --container egressd -- /usr/bin/egressd "
	onB     = "exec --namespace egressd-system old-b --container egressd -- /usr/bin/egressd "
)

// two are two nodes in the middle of an upgrade: a has its new pod, b's is not ready yet.
var two = answered{out: `{"items":[` + strings.Join([]string{
	pod("old-a", "a", "2026-01-01T00:00:00Z", true), pod("new-a", "a", "2026-01-02T00:00:00Z", true),
	pod("old-b", "b", "2026-01-01T00:00:00Z", true), pod("new-b", "b", "2026-01-02T00:00:00Z", false),
	pod("pending", "", "2026-01-02T00:00:00Z", false),
}, ",") + `]}`}

// result is how a call of the plugin ended.
type result struct {
	code           int
	stdout, stderr string
	kubectl        *fakeKubectl
}

// plugin calls it, with the pods of two unless answers has others.
func plugin(t *testing.T, answers map[string]answered, stdin string, args ...string) result {
	t.Helper()
	f := &fakeKubectl{stdin: map[string]string{}, answers: map[string]answered{getPods: two}}
	for k, v := range answers {
		f.answers[k] = v
	}
	var out, said bytes.Buffer
	code := run(t.Context(), env{strings.NewReader(stdin), &out, &said, f.run}, args)
	return result{code, out.String(), said.String(), f}
}

// check compares a result with what is wanted: parts of both outputs, and "!" before
// what must not be there.
func (r result) check(t *testing.T, code int, stdout, stderr []string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for text, parts := range map[*string][]string{&r.stdout: stdout, &r.stderr: stderr} {
		for _, p := range parts {
			part, not := strings.CutPrefix(p, "!")
			if strings.Contains(*text, part) == not {
				t.Errorf("%q: want it there: %t", part, !not)
			}
		}
	}
	if t.Failed() {
		t.Logf("stdout:\n%s\nstderr:\n%s\ncalls:\n%s", r.stdout, r.stderr, strings.Join(r.kubectl.calls, "\n"))
	}
}

func TestStatus(t *testing.T) {
	good := answered{out: `{"version":"1.2","ready":true,"mode":"enforce","policy":{"hash":"0123456789abcdef"},"capture":{}}`}
	ill := answered{out: `{"version":"1.1","ready":false,"mode":"audit","policy":{"hash":"ff","error":"bad\u001b[2Jfile"},"capture":{}}`}
	for _, tt := range []struct {
		name           string
		answers        map[string]answered
		args           []string
		code           int
		stdout, stderr []string
	}{
		{"all good", map[string]answered{onA + "status -o json": good, onB + "status -o json": good}, nil, 0,
			[]string{"NODE", "a     true   1.2      enforce  0123456789ab  -\n", "b     true"}, []string{"!node"}},
		{"one not ready", map[string]answered{onA + "status -o json": good, onB + "status -o json": ill}, nil, 0,
			[]string{"b     false", "audit", "bad", "!\x1b"}, nil},
		{"one knows no cluster", map[string]answered{onA + "status -o json": good, onB + "status -o json": {out: `{"ready":true,"policy":{"cluster":{"prefixes":null,"problem":"auto found nothing"}}}`}}, nil, 0,
			[]string{"a     true   1.2      enforce  0123456789ab  -\n", "auto found nothing"}, nil},
		{"one fails", map[string]answered{onA + "status -o json": good, onB + "status -o json": {said: "container not found\n", err: errExit}}, nil, 1,
			[]string{"a     true", "b     unknown", "no answer"}, []string{"node b (pod old-b): container not found", "1 of 2 nodes"}},
		{"one is silent", map[string]answered{onA + "status -o json": good, onB + "status -o json": {hangs: true}}, []string{"--timeout", "20ms"}, 1,
			[]string{"a     true"}, []string{"node b (pod old-b): no answer within 20ms"}},
		{"one says nonsense", map[string]answered{onA + "status -o json": good, onB + "status -o json": {out: "<html>"}}, nil, 1,
			[]string{"b     unknown"}, []string{"node b"}},
		{"json", map[string]answered{onA + "status -o json": good, onB + "status -o json": {err: errExit}}, []string{"-o", "json"}, 1,
			[]string{`"node": "a"`, `"hash": "0123456789abcdef"`, `"error": "exit status 1"`}, []string{"node b"}},
		{"one node", map[string]answered{onB + "status": {out: "all of it\n"}}, []string{"b"}, 0, []string{"all of it"}, nil},
		{"no such node", nil, []string{"c"}, 1, nil, []string{`no pod of egressd on a node "c"`}},
		{"not installed", map[string]answered{getPods: {out: `{"items":[]}`}}, nil, 1, nil, []string{"namespace egressd-system", "--egressd-namespace"}},
		{"forbidden", map[string]answered{getPods: {said: "Error from server (Forbidden)", err: errExit}}, nil, 1, nil, []string{"Forbidden"}},
		{"no kubectl", map[string]answered{getPods: {err: exec.ErrNotFound}}, nil, 1, nil, []string{"must be in the PATH"}},
		{"wrong output", nil, []string{"-o", "yaml"}, 2, nil, []string{"text or json"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plugin(t, tt.answers, "", append([]string{"status"}, tt.args...)...).check(t, tt.code, tt.stdout, tt.stderr)
		})
	}
}

// TestKubectlFlags: kubectl is told which cluster, and the pods are looked for where
// egressd is installed.
func TestKubectlFlags(t *testing.T) {
	r := plugin(t, nil, "", "status", "--kubeconfig", "k", "--context", "c", "--egressd-namespace", "elsewhere")
	if want := "--kubeconfig k --context c get pods --namespace elsewhere --selector app.kubernetes.io/name=egressd -o json"; r.kubectl.calls[0] != want {
		t.Errorf("%q, want %q", r.kubectl.calls[0], want)
	}
}

func flow(time, workload, name string, allowed bool) string {
	return fmt.Sprintf(`{"time":"2026-01-01T00:00:%sZ","workload":%q,"process":{"command":"curl"},"proto":"tcp","name":%q,"allowed":%t,"reason":"no-rule"}`+"\n", time, workload, name, allowed)
}

func TestFlows(t *testing.T) {
	a := answered{out: flow("01", "shop/web", "one.example", false) + flow("03", "shop/db", "three.example", true)}
	b := answered{out: flow("02", "web/shop", "two.example", false)}
	both := map[string]answered{onA + "flows -o json": a, onB + "flows -o json": b, "get pod --namespace shop web": {out: "a"}}
	t.Run("by time", func(t *testing.T) {
		r := plugin(t, both, "", "flows")
		r.check(t, 0, []string{"DENY a shop/web curl tcp one.example (no-rule)", "DENY b web/shop", "ALLOW a shop/db"}, nil)
		if strings.Index(r.stdout, "one.") > strings.Index(r.stdout, "two.") || strings.Index(r.stdout, "two.") > strings.Index(r.stdout, "three.") {
			t.Errorf("not by time:\n%s", r.stdout)
		}
	})
	t.Run("namespace", func(t *testing.T) {
		plugin(t, both, "", "flows", "-n", "shop").check(t, 0, []string{"one.", "three.", "!two."}, nil)
	})
	t.Run("pod", func(t *testing.T) {
		r := plugin(t, both, "", "flows", "-n", "shop", "--pod", "web")
		r.check(t, 0, []string{"one.", "!three.", "!two."}, nil)
		for _, c := range r.kubectl.calls {
			if strings.HasPrefix(c, onB) {
				t.Errorf("a node was asked where the pod is not: %s", c)
			}
		}
	})
	t.Run("json", func(t *testing.T) {
		r := plugin(t, both, "", "flows", "-o", "json", "-n", "web")
		var got struct {
			Node  string
			Event struct{ Name string }
		}
		if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || got.Node != "b" || got.Event.Name != "two.example" {
			t.Errorf("%+v, %v: %s", got, err, r.stdout)
		}
	})
	t.Run("verdict", func(t *testing.T) {
		r := plugin(t, map[string]answered{onA + "flows -o json --verdict deny": a, onB + "flows -o json --verdict deny": b}, "", "flows", "--verdict", "deny")
		r.check(t, 0, []string{"one."}, nil)
	})
	t.Run("one fails", func(t *testing.T) {
		plugin(t, map[string]answered{onA + "flows": a, onB + "flows": {out: flow("02", "web/shop", "two.example", false), said: "gone", err: errExit}}, "", "flows").
			check(t, 1, []string{"one.", "two."}, []string{"node b (pod old-b): gone"})
	})
	t.Run("follow", func(t *testing.T) {
		plugin(t, map[string]answered{onA + "flows -o json -f": a, onB + "flows -o json -f": {said: "gone", err: errExit}}, "", "flows", "-f").
			check(t, 1, []string{"one.", "three."}, []string{"node a (pod new-a): it has ended", "node b (pod old-b): gone"})
	})
	t.Run("nonsense", func(t *testing.T) {
		plugin(t, map[string]answered{onA + "flows": {out: "nonsense\n"}, onB + "flows": b}, "", "flows").
			check(t, 1, []string{"two."}, []string{"node a (pod new-a): read the daemon's answer"})
	})
}

func TestExplain(t *testing.T) {
	at := map[string]answered{
		"get pod --namespace shop web": {out: "b"}, "get pod --namespace shop far": {out: "c"}, "get pod --namespace shop new": {},
		"get pod --namespace shop gone":                                              {said: `pods "gone" not found`, err: errExit},
		onB + "explain --pod shop/web -o text -X POST -H A: b -- https://x.example/": {out: "allowed\n"},
		onB + "explain --pod shop/web -o text -- denied.example:1":                   {out: "denied\n", err: &exec.ExitError{}},
	}
	for _, tt := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr []string
	}{
		{"allowed", []string{"--pod", "shop/web", "-X", "POST", "-H", "A: b", "https://x.example/"}, 0, []string{"allowed"}, nil},
		{"denied", []string{"--pod", "shop/web", "denied.example:1"}, 1, []string{"denied"}, []string{"!kubectl egress:"}},
		{"no pod", []string{"https://x.example/"}, 2, nil, []string{"--pod NAMESPACE/NAME"}},
		{"not a pod's name", []string{"--pod", "web", "https://x.example/"}, 2, nil, []string{"NAMESPACE/NAME"}},
		{"a flag for a name", []string{"--pod", "shop/--all", "https://x.example/"}, 2, nil, []string{"NAMESPACE/NAME"}},
		{"pod is gone", []string{"--pod", "shop/gone", "https://x.example/"}, 1, nil, []string{"not found"}},
		{"not scheduled", []string{"--pod", "shop/new", "https://x.example/"}, 1, nil, []string{"on no node yet"}},
		{"no egressd there", []string{"--pod", "shop/far", "https://x.example/"}, 1, nil, []string{"on node c", "under no policy"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plugin(t, at, "", append([]string{"explain"}, tt.args...)...).check(t, tt.code, tt.stdout, tt.stderr)
		})
	}
}

// set is a DaemonSet as kubectl prints it.
func set(release string) string {
	return `{"items":[{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"egressd","resourceVersion":"7","annotations":{"meta.helm.sh/release-name":"` + release + `"}},
"spec":{"updateStrategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":0}},"template":{"spec":{"hostPID":true,"containers":[{"name":"egressd","image":"egressd:1",
"args":["run"],"env":[{"name":"A"}],"startupProbe":{},"readinessProbe":{},"livenessProbe":{},"securityContext":{"readOnlyRootFilesystem":true},"volumeMounts":[{"name":"bpffs"}]}]}}},"status":{}}]}`
}

func TestUninstall(t *testing.T) {
	const (
		getSets = "get daemonsets --namespace egressd-system"
		replace = "replace --namespace egressd-system -f -"
		rollout = "rollout status daemonset/egressd --namespace egressd-system --timeout 5m0s"
	)
	works := map[string]answered{getSets: {out: set("")}, replace: {}, rollout: {}, "delete ": {out: "deleted\n"}}
	with := func(more map[string]answered) map[string]answered {
		out := map[string]answered{}
		for _, m := range []map[string]answered{works, more} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	deletes := func(r result) (n int) {
		for _, c := range r.kubectl.calls {
			if strings.HasPrefix(c, "delete ") {
				n++
			}
		}
		return n
	}
	t.Run("all nodes", func(t *testing.T) {
		r := plugin(t, works, "", "uninstall", "--yes")
		r.check(t, 0, []string{"in the kernel of no node any more", "deleted"}, nil)
		unload, wait := slices.Index(r.kubectl.calls, replace), slices.Index(r.kubectl.calls, rollout)
		first := slices.IndexFunc(r.kubectl.calls, func(c string) bool { return strings.HasPrefix(c, "delete ") })
		if unload < 0 || wait < unload || first < wait {
			t.Errorf("the order is %q", r.kubectl.calls)
		}
		unloads(t, r.kubectl.stdin[replace])
	})
	t.Run("asks", func(t *testing.T) {
		for answer, want := range map[string]int{"y\n": 5, "n\n": 0, "": 0} {
			r := plugin(t, works, answer, "uninstall")
			if got := deletes(r); got != want {
				t.Errorf("%q: %d deletions, want %d", answer, got, want)
			}
			if !strings.Contains(r.stderr, "opens all traffic") {
				t.Errorf("it does not say what it does: %s", r.stderr)
			}
		}
	})
	t.Run("one node is not done", func(t *testing.T) {
		r := plugin(t, with(map[string]answered{
			rollout: {said: "error: timed out waiting for the condition", err: errExit},
			getPods: {out: "b\tegressd-x\n"},
		}), "", "uninstall", "--yes")
		r.check(t, 1, nil, []string{"node b: egressd may still be in its kernel", "egressd-x --container unload", "nothing was deleted", "timed out"})
		if deletes(r) > 0 {
			t.Error("it is deleted all the same")
		}
	})
	t.Run("helm", func(t *testing.T) {
		r := plugin(t, with(map[string]answered{getSets: {out: set("mine")}}), "", "uninstall", "--yes")
		r.check(t, 0, []string{"helm uninstall mine --namespace egressd-system"}, nil)
		if deletes(r) > 0 {
			t.Error("what Helm made is deleted")
		}
	})
	t.Run("not installed", func(t *testing.T) {
		plugin(t, with(map[string]answered{getSets: {out: `{"items":[]}`}}), "", "uninstall", "--yes").
			check(t, 1, nil, []string{"no DaemonSet", "uninstall.yaml"})
	})
	t.Run("may not change it", func(t *testing.T) {
		r := plugin(t, with(map[string]answered{replace: {said: "Forbidden", err: errExit}}), "", "uninstall", "--yes")
		r.check(t, 1, nil, []string{"change DaemonSet egressd: Forbidden"})
		if deletes(r) > 0 {
			t.Error("it is deleted all the same")
		}
	})
}

// unloads checks that a DaemonSet unloads, with what the daemon had of its node.
func unloads(t *testing.T, text string) {
	t.Helper()
	var d struct {
		Metadata struct{ ResourceVersion string }
		Spec     struct {
			UpdateStrategy struct {
				RollingUpdate struct {
					MaxSurge       int
					MaxUnavailable string
				}
			}
			Template struct {
				Spec struct {
					HostPID                    bool
					InitContainers, Containers []map[string]any
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	spec, roll := d.Spec.Template.Spec, d.Spec.UpdateStrategy.RollingUpdate
	if !spec.HostPID || len(spec.InitContainers) != 1 || len(spec.Containers) != 1 || roll.MaxSurge != 0 || roll.MaxUnavailable != "100%" || d.Metadata.ResourceVersion != "7" {
		t.Fatalf("%s", text)
	}
	for want, c := range map[string]map[string]any{"[unload]": spec.InitContainers[0], "[unload --stay]": spec.Containers[0]} {
		if fmt.Sprint(c["args"]) != want || c["image"] != "egressd:1" || c["securityContext"] == nil || c["volumeMounts"] == nil || c["startupProbe"] != nil || c["env"] != nil {
			t.Errorf("want %s: %v", want, c)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"stats"}, {"flows", "x"}, {"status", "--nonsense"}, {"explain"}} {
		if r := plugin(t, nil, "", args...); r.code != 2 || r.stderr == "" {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
