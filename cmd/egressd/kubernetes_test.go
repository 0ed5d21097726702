// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/load"
	"github.com/egressd/egressd/policy/source/kube"
)

// TestKubernetesMode: --mode off is for pods; the daemon's own mode stays enforce, so that
// pods that nobody knows yet are denied.
func TestKubernetesMode(t *testing.T) {
	for _, tt := range []struct {
		f     kubernetesFlags
		text  string
		pods  policy.Mode
		own   string
		fails bool
	}{
		{kubernetesFlags{on: true}, "enforce", policy.Enforce, "enforce", false},
		{kubernetesFlags{on: true}, "audit", policy.Audit, "audit", false},
		{kubernetesFlags{on: true}, "off", policy.Off, "enforce", false},
		{kubernetesFlags{on: true}, "none", 0, "none", true},
		{kubernetesFlags{}, "off", 0, "off", false}, // policyFlags refuses it
		{kubernetesFlags{kubeconfig: "x"}, "audit", 0, "audit", true},
		{kubernetesFlags{node: "x"}, "audit", 0, "audit", true},
	} {
		pods, own, err := tt.f.mode(tt.text)
		if pods != tt.pods || own != tt.own || (err != nil) != tt.fails {
			t.Errorf("%+v, --mode %s: %v, %s, %v", tt.f, tt.text, pods, own, err)
		}
	}
	if _, err := (&policyFlags{mode: "off"}).options(env{}); err == nil {
		t.Error("--mode off is taken without --kubernetes")
	}
}

// TestKubernetesOptions: the node's name is the flag's, the environment's or the host's.
func TestKubernetesOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	const config = `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"clusters":[{"name":"c","cluster":{"server":"https://192.0.2.1:6443"}}],"users":[{"name":"u","user":{"token":"t"}}]}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ flag, variable, want string }{
		{"a", "b", "a"}, {"", "b", "b"}, {"", "", strings.ToLower(host)},
	} {
		t.Setenv("NODE_NAME", tt.variable)
		var o agent.Options
		f := kubernetesFlags{on: true, kubeconfig: file, node: tt.flag}
		if err := f.options(&o, policy.Off, []string{"kube-system"}); err != nil {
			t.Fatal(err)
		}
		if k := o.Kubernetes; k.Node != tt.want || k.Mode != policy.Off || k.Config.Host != "https://192.0.2.1:6443" || len(k.SystemNamespaces) != 1 {
			t.Errorf("%+v: %+v", tt, k)
		}
	}
	var o agent.Options
	f := kubernetesFlags{on: true}
	if err := f.options(&o, policy.Off, nil); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("outside of a cluster: %v", err)
	}
}

// TestKubernetesStatus: people see what is left out, and what is awaited.
func TestKubernetesStatus(t *testing.T) {
	var out bytes.Buffer
	tw := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	s := agent.Status{Kubernetes: &kube.InformerStatus{
		Server: "https://192.0.2.1:6443", Node: "node1", Awaited: []string{"Pod (refused)"},
		Kinds:    map[string]kube.KindStatus{"Pod": {Error: "refused"}, "Service": {Objects: 3}},
		Problems: map[string]string{"Pod n/p": "label wrong"},
	}}
	s.Policy.Refused = []load.Refused{{Object: "Sidecar n/s", Message: "bad", Since: time.Unix(0, 0), Older: true}}
	s.Policy.Cluster = &control.ClusterStatus{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.244.3.0/24")},
		Found:    []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}, Problem: "lost",
	}
	printStatus(tw, s)
	_ = tw.Flush()
	for _, want := range []string{"10.1.0.0/16, 10.244.3.0/24 are inside of it; found by auto: 10.244.3.0/24", "NO CLUSTER", "https://192.0.2.1:6443, node node1, 3 objects", "NOT SYNCED", "Pod (refused)", "Pod n/p: label wrong", "LEFT OUT", "Sidecar n/s", "its last good version is in force: bad"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the status does not say %q:\n%s", want, out.String())
		}
	}
}
