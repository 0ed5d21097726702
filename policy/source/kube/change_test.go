// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/egressd/egressd/policy"
)

// TestWorkOfAChange: one change among thousands of objects decodes what has changed and
// nothing else, and changes the hosts that it is about and no others, in each of the
// policies that have them.
func TestWorkOfAChange(t *testing.T) {
	const entries, namespaces = 2000, 10
	s, err := New(Options{Config: &rest.Config{Host: "https://127.0.0.1:1"}, Node: "node1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.clients.http.CloseIdleConnections()
	entry := func(i, version int) any {
		return received(t, entryObject(fmt.Sprintf("n%d", i%namespaces), i, fmt.Sprintf("h%d-%d.example.com", i, version)))
	}
	var all []any
	for i := range entries {
		all = append(all, entry(i, 0))
	}
	if err := s.tables["ServiceEntry"].Replace(all, ""); err != nil {
		t.Fatal(err)
	}
	for i := range namespaces {
		ns := fmt.Sprintf("n%d", i)
		if err := s.tables[namespaceKind].Add(&core.Namespace{ObjectMeta: meta.ObjectMeta{Name: ns}}); err != nil {
			t.Fatal(err)
		}
		p := &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: ns, Name: "p", UID: types.UID(fmt.Sprintf("b0b0b0b0-0000-4000-8000-%012d", i))}}
		p.Status.QOSClass = core.PodQOSBurstable
		if err := s.tables[podKind].Add(p); err != nil {
			t.Fatal(err)
		}
	}
	d := newDaemon()
	if err := d.load(s.Files()); err != nil {
		t.Fatal(err)
	}
	for version := range 3 {
		was, decoded := d.was, d.reader.Decoded()
		if err := s.tables["ServiceEntry"].Update(entry(7, version+1)); err != nil {
			t.Fatal(err)
		}
		files := s.Files()
		if err := d.load(files); err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, f := range files {
			if f.Name == "kubernetes:ServiceEntry/n7/e00007" {
				size = len(f.Data)
			}
		}
		if n := d.reader.Decoded() - decoded; size == 0 || n != int64(size) {
			t.Errorf("%d bytes are decoded for a change of an object of %d", n, size)
		}
		change := policy.Diff(was, d.was)
		if len(change.Policies) == 0 {
			t.Fatal("nothing has changed")
		}
		for _, p := range change.Policies {
			if n := len(p.Hosts); n == 0 || n > 2 || p.AllHosts || len(p.Static) > 0 {
				t.Errorf("policy %d: %d hosts have changed (all: %t), and %d addresses", p.ID, n, p.AllHosts, len(p.Static))
			}
		}
	}
}
