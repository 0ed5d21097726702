// SPDX-License-Identifier: Apache-2.0

package main

import (
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
