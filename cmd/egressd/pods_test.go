// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestPodFlags: a pod is NAMESPACE/NAME, or NAME in a namespace, which is the
// default one when none is named.
func TestPodFlags(t *testing.T) {
	for _, c := range []struct {
		f        podFilter
		workload string // of --workload
		want     string
		wrong    bool
	}{
		{podFilter{}, "", "", false},
		{podFilter{}, "build", "build", false},
		{podFilter{pod: "shop/web"}, "", "shop/web", false},
		{podFilter{pod: "web"}, "", "default/web", false},
		{podFilter{pod: "web", namespace: "shop"}, "", "shop/web", false},
		{podFilter{pod: "shop/web", namespace: "shop"}, "", "shop/web", false},
		{podFilter{pod: "shop/web", namespace: "other"}, "", "", true},
		{podFilter{pod: "shop/web"}, "shop/web", "", true},
		{podFilter{namespace: "shop"}, "", "", true},
		{podFilter{pod: "/web"}, "", "", true},
		{podFilter{pod: "shop/"}, "", "", true},
		{podFilter{pod: "a/b/c"}, "", "", true},
	} {
		got, err := c.f.orWorkload(c.workload)
		if got != c.want || (err != nil) != c.wrong || c.wrong && !errors.As(err, new(usageError)) {
			t.Errorf("%+v: %q, %v", c.f, got, err)
		}
	}
}

// TestAskForPods: flows and explain ask the daemon for the pod that was named.
func TestAskForPods(t *testing.T) {
	for args, want := range map[string]url.Values{
		"flows --pod web -n shop":                        {"workload": {"shop/web"}, "namespace": {"shop"}},
		"flows --pod web":                                {"workload": {"default/web"}, "namespace": {""}},
		"flows --namespace shop":                         {"workload": {""}, "namespace": {"shop"}},
		"explain --pod shop/web https://api.example.com": {"workload": {"shop/web"}},
	} {
		var asked url.Values
		dir := fakeDaemon(t, func(w http.ResponseWriter, r *http.Request) {
			asked = r.URL.Query()
			if strings.HasPrefix(args, "explain") {
				fmt.Fprint(w, `{"allowed":true}`)
			}
		})
		if o := call(t, append(strings.Fields(args), "--state-dir", dir)...); o.code != 0 {
			t.Errorf("%s: %+v", args, o)
		}
		for k, v := range want {
			if fmt.Sprint(asked[k]) != fmt.Sprint(v) {
				t.Errorf("%s: asked for %s=%q, want %q", args, k, asked[k], v)
			}
		}
	}
}

// TestFlowsNamePods: a line says which pod it was; of the node's own it is as it was.
func TestFlowsNamePods(t *testing.T) {
	e := flow.Event{
		Time: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), Kind: flow.Decision, Layer: flow.Kernel, Workload: "shop/web", Reason: policy.ReasonNoRule,
		Proto: "tcp", Dst: netip.MustParseAddrPort("192.0.2.1:443"), Process: flow.Process{PID: 7, Command: "curl"},
	}
	if s := eventLine(e); !strings.Contains(s, " kernel  shop/web curl[7] tcp 192.0.2.1:443 (no-rule)") {
		t.Error(s)
	}
	e.Workload = "node"
	if s := eventLine(e); !strings.Contains(s, " kernel  curl[7] tcp 192.0.2.1:443 (no-rule)") {
		t.Error(s)
	}
}

// TestStatusOfManyPods: few workloads are listed, many are summed up, but for those
// that are at their limit.
func TestStatusOfManyPods(t *testing.T) {
	s := agent.Status{Workloads: []agent.WorkloadStatus{{Name: "node", Mode: "enforce", Policy: 1}}}
	for i := range 500 {
		w := agent.WorkloadStatus{Name: fmt.Sprintf("ns%d/web-%d", i%12, i), Mode: "enforce", Policy: policy.PolicyID(2 + i%37)}
		if i%25 == 0 {
			w.Mode = "audit"
		}
		w.Share.Full = i == 77
		s.Workloads = append(s.Workloads, w)
	}
	var out bytes.Buffer
	printStatus(&out, s)
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{"workloads 500 of 12 namespaces, with 37 policies: 20 audit, 480 enforce (-o json lists them)", "workload node, mode", "workload ns5/web-77, mode", "SHARE FULL"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if n := strings.Count(text, "pending redirects"); n != 2 {
		t.Errorf("%d workloads are listed", n)
	}
	s.Workloads = s.Workloads[:listed]
	out.Reset()
	printStatus(&out, s)
	if n := strings.Count(out.String(), "pending redirects"); n != listed || strings.Contains(out.String(), "workloads ") {
		t.Errorf("%d of %d workloads are listed:\n%s", n, listed, &out)
	}
}
