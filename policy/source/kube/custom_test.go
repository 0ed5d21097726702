// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestCustom: what is read of an object of a kind that is defined is what its file says;
// names of fields are case-sensitive, as they are for the API server and what admits
// objects there.
func TestCustom(t *testing.T) {
	s, err := New(Options{Config: &rest.Config{Host: "https://127.0.0.1:1"}, Node: "node1"})
	if err != nil {
		t.Fatal(err)
	}
	of := s.tables["ServiceEntry"]
	const head = `"apiVersion":"networking.istio.io/v1","kind":"ServiceEntry","metadata":{"name":"a","namespace":"b","uid":"1","resourceVersion":"5","generation":2,` +
		`"managedFields":[{"manager":"m","fieldsV1":{"f:spec":{}}}],"labels":{"x":"y"},"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","istio.io/dry-run":"true"},"creationTimestamp":"2026-01-01T00:00:00Z"}`
	const file = `{"apiVersion":"networking.istio.io/v1","kind":"ServiceEntry","metadata":{"name":"a","namespace":"b","labels":{"x":"y"},"annotations":{"istio.io/dry-run":"true"},"creationTimestamp":"2026-01-01T00:00:00Z"}`
	for _, tt := range []struct{ spec, want string }{
		{`,"spec":{"hosts":["a.example.com"],"ports":[{"number":443}]},"status":{"x":1}`, `,"spec":{"hosts":["a.example.com"],"ports":[{"number":443}]}}`},
		{`,"spec":{"hosts":["a.example.com"]},"Spec":{"hosts":["*"]},"SPEC":{"hosts":["*"]}`, `,"spec":{"hosts":["a.example.com"]}}`},
		{`,"Spec":{"hosts":["*"]}`, `}`},
		{`,"spec":null`, `}`},
		{``, `}`},
	} {
		o, _, err := newCustomCodec().Decode([]byte("{"+head+tt.spec+"}"), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := apimeta.Accessor(o); err != nil || m.GetResourceVersion() != "5" {
			t.Errorf("%s: no resourceVersion", tt.spec)
		}
		if got := of.read(o); string(got.data) != file+tt.want {
			t.Errorf("%s: the file is\n%s, want\n%s", tt.spec, got.data, file+tt.want)
		}
	}
	s.clients.http.CloseIdleConnections()
}

// TestCustomAnswers: what is no object of the kind is what it says.
func TestCustomAnswers(t *testing.T) {
	status, err := json.Marshal(apierrors.NewNotFound(kinds()[5].version("v1").GroupResource(), "a").Status())
	if err != nil {
		t.Fatal(err)
	}
	read := func(text string) any {
		o, _, err := newCustomCodec().Decode([]byte(text), nil, nil)
		if err != nil {
			return err
		}
		return o
	}
	status = append([]byte(`{"kind":"Status","apiVersion":"v1",`), status[1:]...)
	if got, ok := read(string(status)).(*meta.Status); !ok || got.Code != 404 {
		t.Errorf("a Status is %v", got)
	}
	list, ok := read(`{"kind":"ServiceEntryList","apiVersion":"networking.istio.io/v1","metadata":{"resourceVersion":"7","continue":"c"},"items":[{"metadata":{"name":"a"},"spec":{"hosts":["x"]}},{"metadata":{"name":"b"}}]}`).(*customList)
	if !ok || list.ResourceVersion != "7" || list.Continue != "c" || len(list.Items) != 2 || list.Items[0].Name != "a" || string(list.Items[0].spec) != `{"hosts":["x"]}` {
		t.Errorf("a list is %+v", list)
	}
	if none, ok := read(`{"kind":"ServiceEntryList","apiVersion":"networking.istio.io/v1","metadata":{"resourceVersion":"7"},"items":[]}`).(*customList); !ok || len(none.Items) != 0 {
		t.Errorf("an empty list is %+v", none)
	}
	for _, bad := range []string{`{`, `{"kind":5}`, `{"a":1}`, ``} {
		if _, ok := read(bad).(error); !ok {
			t.Errorf("%q is read", bad)
		}
	}
	copied := list.DeepCopyObject().(*customList)
	copied.Items[0].spec[2], copied.Items[0].Name = 'H', "c"
	if string(list.Items[0].spec) != `{"hosts":["x"]}` || list.Items[0].Name != "a" {
		t.Error("a copy is not one")
	}
}
