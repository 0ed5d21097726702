// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/egressd/egressd/policy/istio"
)

func finding(severity istio.Severity, object, code, text string) istio.Finding {
	return istio.Finding{Severity: severity, File: "kubernetes:" + object, Line: 1, Code: code, Text: text}
}

// TestVerdicts: errors and warnings of objects of the API server are those of
// their objects; what is of files, and notes, are none.
func TestVerdicts(t *testing.T) {
	got := verdicts([]istio.Finding{
		finding(istio.Warning, "ServiceEntry/shop/api", "EGD0210", "w"), finding(istio.Error, "ServiceEntry/shop/api", "EGD0001", "e"),
		finding(istio.Note, "ServiceEntry/shop/note", "EGD0107", "n"), finding(istio.Warning, "Gateway.gateway.networking.k8s.io/shop/gw", "EGD0904", "g"),
		{Severity: istio.Error, File: "policy.yaml", Text: "f"}, finding(istio.Error, "ServiceEntry", "", "odd"),
	})
	v := got[name{"ServiceEntry", "shop", "api"}]
	if len(got) != 2 || v == nil || len(v.errors) != 1 || len(v.warnings) != 1 {
		t.Fatalf("%+v", got)
	}
	if kindOf("Gateway.gateway.networking.k8s.io") != (kind{}) {
		t.Error("a Gateway of the Gateway API is taken for one of Istio")
	}
	if want := "this version of the object is not in force, its last good one is if there was one: e (EGD0001)"; v.text() != want {
		t.Error(v.text())
	}
	var many verdict
	for i := range 1000 {
		many.warnings = append(many.warnings, finding(istio.Warning, "ServiceEntry/shop/api", fmt.Sprintf("EGD%04d", i), strings.Repeat("long ", 10)))
	}
	if s := many.text(); len(s) > 2*maxText || !strings.Contains(s, "more") {
		t.Errorf("%d bytes: %s", len(s), s)
	}
	if n := len(many.messages(nil)); n != maxMessages {
		t.Errorf("%d messages", n)
	}
}

// TestEdit: what egressd says comes, changes and goes; what others say stays.
func TestEdit(t *testing.T) {
	at := func(minute int) meta.Time { return meta.NewTime(time.Date(2026, 1, 1, 12, minute, 0, 0, time.UTC)) }
	o := &unstructured.Unstructured{Object: map[string]any{}}
	const istiods = `{"conditions":[{"type":"Reconciled","status":"True"}],"validationMessages":[{"level":"INFO","type":{"code":"IST0118"}}],"addresses":[{"value":"240.240.0.1"}]}`
	if err := json.Unmarshal([]byte(`{"metadata":{"generation":7},"status":`+istiods+`}`), &o.Object); err != nil {
		t.Fatal(err)
	}
	o.SetGeneration(7)
	bad := &verdict{errors: []istio.Finding{finding(istio.Error, "ServiceEntry/shop/api", "EGD0001", "e")}}
	worse := &verdict{errors: append(bad.errors, finding(istio.Error, "ServiceEntry/shop/api", "EGD0003", "f"))}
	warned := &verdict{warnings: []istio.Finding{finding(istio.Warning, "ServiceEntry/shop/api", "EGD0210", "w")}}
	for i, step := range []struct {
		v       *verdict
		changed bool
		want    string
	}{
		{nil, false, istiods},
		{bad, true, `{"addresses":[{"value":"240.240.0.1"}],"conditions":[{"status":"True","type":"Reconciled"},` +
			`{"lastTransitionTime":"2026-01-01T12:01:00Z","message":"this version of the object is not in force, its last good one is if there was one: e (EGD0001)","observedGeneration":7,"reason":"Invalid","status":"False","type":"egressd.dev/Accepted"}],` +
			`"validationMessages":[{"level":"INFO","type":{"code":"IST0118"}},{"level":"ERROR","type":{"code":"EGD0001","name":"egressd"}}]}`},
		{bad, false, ""},
		{worse, true, `{"addresses":[{"value":"240.240.0.1"}],"conditions":[{"status":"True","type":"Reconciled"},` + // the same transition
			`{"lastTransitionTime":"2026-01-01T12:01:00Z","message":"this version of the object is not in force, its last good one is if there was one: e (EGD0001); f (EGD0003)","observedGeneration":7,"reason":"Invalid","status":"False","type":"egressd.dev/Accepted"}],` +
			`"validationMessages":[{"level":"INFO","type":{"code":"IST0118"}},{"level":"ERROR","type":{"code":"EGD0001","name":"egressd"}},{"level":"ERROR","type":{"code":"EGD0003","name":"egressd"}}]}`},
		{warned, true, `{"addresses":[{"value":"240.240.0.1"}],"conditions":[{"status":"True","type":"Reconciled"},` +
			`{"lastTransitionTime":"2026-01-01T12:04:00Z","message":"the object is in force; it may not do what is meant: w (EGD0210)","observedGeneration":7,"reason":"Warnings","status":"True","type":"egressd.dev/Accepted"}],` +
			`"validationMessages":[{"level":"INFO","type":{"code":"IST0118"}},{"level":"WARNING","type":{"code":"EGD0210","name":"egressd"}}]}`},
		{nil, true, istiods},
	} {
		if changed := step.v.edit(o, at(i)); changed != step.changed {
			t.Errorf("step %d: changed is %t", i, changed)
		}
		var want any
		if step.want == "" {
			continue
		}
		if err := json.Unmarshal([]byte(step.want), &want); err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal(o.Object["status"])
		if text, _ := json.Marshal(want); string(text) != string(got) {
			t.Errorf("step %d\ngot  %s\nwant %s", i, got, text)
		}
	}
	empty := &unstructured.Unstructured{Object: map[string]any{}}
	if !bad.edit(empty, at(0)) || !(*verdict)(nil).edit(empty, at(1)) || len(empty.Object["status"].(map[string]any)) != 0 {
		t.Errorf("%v", empty.Object)
	}
}
