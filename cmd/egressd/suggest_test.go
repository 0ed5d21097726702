// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// inCluster are flows to a Service's address and to a host.
const inCluster = `{"time":"2026-01-02T03:04:05Z","kind":"decision","layer":"kernel","workload":"node","process":{"pid":7,"command":"curl"},"proto":"tcp","dst":"10.96.0.10:80","verdict":"deny","allowed":false,"reason":"no-rule"}
{"time":"2026-01-02T03:04:06Z","kind":"decision","layer":"kernel","workload":"node","process":{"pid":7,"command":"curl"},"proto":"tcp","dst":"192.0.2.1:443","name":"a.example.com","verdict":"deny","allowed":false,"reason":"no-rule"}
`

// ofCluster is what an API server has, as kubectl prints it.
const ofCluster = `apiVersion: v1
kind: List
items:
- apiVersion: networking.k8s.io/v1
  kind: ServiceCIDR
  metadata: {name: kubernetes}
  spec: {cidrs: [10.96.0.0/16]}
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: a, namespace: default}
  spec:
    hosts: [a.example.com]
    ports: [{number: 443, name: https, protocol: HTTPS}]
    resolution: DNS
`

// TestSuggestMergeCluster: what a cluster's policy allows is not missing, and what is the
// cluster's is told as to check.
func TestSuggestMergeCluster(t *testing.T) {
	dir := t.TempDir()
	flows, list, policy := filepath.Join(dir, "flows.jsonl"), filepath.Join(dir, "list.yaml"), filepath.Join(dir, "policy")
	for path, text := range map[string]string{flows: inCluster, list: ofCluster} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(policy, 0o755); err != nil {
		t.Fatal(err)
	}
	const host, address = "+    - a.example.com\n", "10.96.0.10"
	for _, c := range []struct {
		args   []string
		stdin  string
		code   int
		has    []string
		no     []string
		stderr string
	}{
		{nil, "", 1, []string{host, address}, nil, ""},
		{[]string{"--cluster-cidr", "10.96.0.0/16"}, "", 1, []string{host}, []string{address}, ""},
		{[]string{"--config", list}, "", 1, []string{address}, []string{host}, ""},
		{[]string{"--config", list, "--cluster-cidr", "auto"}, "", 0, nil, []string{"kind"}, ""},
		{[]string{"--config", "-", "--cluster-cidr", "auto"}, ofCluster, 0, nil, []string{"kind"}, ""},
		{[]string{"--config", "-", "--cluster-cidr", "auto", "--write"}, ofCluster, 0, nil, []string{"kind"}, ""},
		{[]string{"--config", filepath.Join(dir, "absent")}, "", 1, nil, nil, "no such file"},
		{[]string{"--cluster-domain", "x"}, "", 2, nil, nil, "give --cluster-cidr"},
		{[]string{"--config", "-", "--from", "-"}, "", 2, nil, nil, "standard input can be read once"},
	} {
		r := callWith(t.Context(), c.stdin, append([]string{"suggest", "--from", flows, "--merge", policy}, c.args...)...)
		good := r.code == c.code && strings.Contains(r.stderr, c.stderr)
		for _, s := range c.has {
			good = good && strings.Contains(r.stdout, s)
		}
		for _, s := range c.no {
			good = good && !strings.Contains(r.stdout, s)
		}
		if !good {
			t.Errorf("%v: %+v, want exit code %d, with %q, without %q", c.args, r, c.code, c.has, c.no)
		}
	}
	if left, err := os.ReadDir(policy); len(left) > 0 || err != nil {
		t.Errorf("nothing was missing, and %v was written: %v", left, err)
	}
	// Beside itself a policy is read once, and what was merged is not missing.
	if r := callWith(t.Context(), "", "suggest", "--from", flows, "--merge", policy, "--write"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if r := callWith(t.Context(), "", "suggest", "--from", flows, "--merge", filepath.Join(policy, learnedFile), "--config", policy); r.code != 0 || r.stdout != "" {
		t.Errorf("beside itself: %+v", r)
	}
	for _, flag := range [][]string{{"--config", list}, {"--cluster-cidr", "auto"}, {"--write"}} {
		if r := callWith(t.Context(), "", append([]string{"suggest", "--from", flows}, flag...)...); r.code != 2 || !strings.Contains(r.stderr, "goes with --merge") {
			t.Errorf("%v without --merge: %+v", flag, r)
		}
	}
}

// manyFlows are lines of several workloads, hosts, ports and protocols, of which some are
// there more than once.
func manyFlows() (out []string) {
	for i := range 60 {
		dst := fmt.Sprintf("203.0.113.%d:%d", i%9+1, []int{443, 80, 5432}[i%3])
		if i%2 == 0 {
			dst = fmt.Sprintf("[2001:db8::%x]:%d", i%9+1, []int{443, 80, 5432}[i%3])
		}
		out = append(out, fmt.Sprintf(`{"time":"2026-01-02T03:%02d:05Z","kind":"decision","layer":"kernel","workload":"%s","process":{"pid":%d,"command":"curl"},"proto":"tcp","dst":%q,"name":"h%d.example.com","verdict":"deny","allowed":false,"reason":"no-rule"}`,
			i*7%60, []string{"node", "shop/web", "shop/db"}[i%5%3], i+1, dst, i%9))
	}
	return out
}

// TestSuggestStable: what is learned does not depend on how often it is asked for, nor on
// the order of lines and files; nor does what flows counts, with who was seen first.
func TestSuggestStable(t *testing.T) {
	lines := manyFlows()
	write := func(lines []string) string {
		path := filepath.Join(t.TempDir(), "flows.jsonl")
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole := write(lines)
	for _, verb := range [][]string{{"suggest", "--from"}, {"suggest", "-o", "json", "--from"}, {"flows", "--summary", "--file"}} {
		flag := verb[len(verb)-1]
		want := call(t, append(verb, whole)...)
		if want.code != 0 || !strings.Contains(want.stdout, "h8.example.com") || !strings.Contains(want.stdout, "2026-01-02T03:00:05Z") && verb[0] == "suggest" {
			t.Fatalf("%v: %+v", verb, want)
		}
		if again := call(t, append(verb, whole)...); again != want {
			t.Errorf("%v: the second time\n%s\nand not\n%s", verb, again.stdout, want.stdout)
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 5 {
			r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
			at := 1 + r.IntN(len(lines)-1)
			if other := call(t, append(verb, write(lines[at:]), flag, write(lines[:at]))...); other != want {
				t.Errorf("%v: in another order\n%s%s\nand not\n%s", verb, other.stdout, other.stderr, want.stdout)
			}
		}
	}
}

// TestSuggestMerge: the difference to what is there is shown and nothing is written; with
// --write it is, beside the files that are there, and then nothing is missing.
func TestSuggestMerge(t *testing.T) {
	dir := t.TempDir()
	flows, into := filepath.Join(dir, "flows.jsonl"), filepath.Join(dir, "policy")
	own := filepath.Join(into, "own.yaml")
	const text = "# mine\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: mine}\nspec:\n  hosts: [h0.example.com, '*.own.example']\n  ports: [{number: 443, name: https, protocol: HTTPS}]\n  resolution: NONE\n"
	if err := os.Mkdir(into, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{flows: strings.Join(manyFlows(), "\n"), own: text} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	merge := func(code int, more ...string) string {
		t.Helper()
		r := call(t, append([]string{"suggest", "--from", flows, "--merge", into}, more...)...)
		if r.code != code {
			t.Fatalf("%v: %+v, want exit code %d", more, r, code)
		}
		return r.stdout
	}
	first := merge(1)
	if !strings.Contains(first, "+    - h1.example.com\n") || strings.Contains(first, "own.example") || first != merge(1) {
		t.Errorf("what is missing:\n%s", first)
	}
	if files, err := os.ReadDir(into); err != nil || len(files) != 1 {
		t.Errorf("without --write there is %v: %v", files, err)
	}
	merge(0, "--write")
	if left := merge(0); left != "" {
		t.Errorf("after --write there is missing:\n%s", left)
	}
	if got, err := os.ReadFile(own); err != nil || string(got) != text {
		t.Errorf("the file that was there is now\n%s: %v", got, err)
	}
	if r := call(t, "replay", flows, "--config", into, "-o", "json"); r.code != 0 || strings.Contains(r.stdout, `"kind": "denied"`) {
		t.Errorf("replayed on what was merged: %+v", r)
	}
}
