// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

func entry(name, host string) istio.File {
	return istio.File{Name: "kubernetes:ServiceEntry/default/" + name, Data: fmt.Appendf(nil,
		`{"apiVersion":"networking.istio.io/v1","kind":"ServiceEntry","metadata":{"name":%q},"spec":{"hosts":[%q],"ports":[{"number":443,"name":"tls","protocol":"TLS"}],"resolution":"DNS"}}`, name, host)}
}

// bad is an object that the API server takes and egressd does not.
func bad(name string) istio.File {
	f := entry(name, "x.example.com")
	f.Data = bytes.Replace(f.Data, []byte("x.example.com"), []byte("999"), 1)
	return f
}

// reading loads as the daemon does.
func reading() func([]istio.File) (Result, error) {
	reader, was := istio.NewReader(istio.Options{}), new(policy.Snapshot)
	return func(files []istio.File) (Result, error) {
		config, findings := reader.Load(files)
		l := Result{Findings: findings, Files: files}
		err := l.Compile(config, was)
		if err == nil {
			was = l.Snapshot
		}
		return l, err
	}
}

func opens(l Result, host string) bool {
	return l.Snapshot != nil && l.Snapshot.Policy(policy.DefaultPolicy).DecideQuery(host).Verdict != policy.Deny
}

// TestRefusals: an object with an error is left out alone, and its last good version
// counts as long as the object is there. Errors of files are the policy's.
func TestRefusals(t *testing.T) {
	var r Refusals
	try := reading()
	file := []istio.File{{Name: "base.yaml", Data: entry("base", "base.example.com").Data}}
	step := func(what string, files, objects []istio.File, open, shut []string, refused ...string) Result {
		t.Helper()
		l, err := r.Load(files, objects, false, try)
		if err != nil {
			t.Fatalf("%s: %v %v", what, err, l.Findings)
		}
		for _, h := range open {
			if !opens(l, h) {
				t.Errorf("%s: %s is not open", what, h)
			}
		}
		for _, h := range shut {
			if opens(l, h) {
				t.Errorf("%s: %s is open", what, h)
			}
		}
		var got []string
		for _, x := range l.Refused {
			got = append(got, fmt.Sprintf("%s %t", x.Object, x.Older))
		}
		if !slices.Equal(got, refused) {
			t.Errorf("%s: refused %v, want %v", what, got, refused)
		}
		return l
	}
	a, b, c := entry("a", "a.example.com"), entry("b", "b.example.com"), entry("c", "c.example.com")
	step("all good", file, []istio.File{a, b}, []string{"base.example.com", "a.example.com", "b.example.com"}, nil)
	first := step("one bad", file, []istio.File{bad("a"), b, c}, []string{"base.example.com", "a.example.com", "b.example.com", "c.example.com"}, nil, "ServiceEntry default/a true")
	second := step("it stays bad", file, []istio.File{bad("a"), b}, []string{"a.example.com", "b.example.com"}, []string{"c.example.com"}, "ServiceEntry default/a true")
	if !first.Refused[0].Since.Equal(second.Refused[0].Since) || first.Refused[0].Message == "" {
		t.Errorf("it is refused since %v, and then %v: %q", first.Refused[0].Since, second.Refused[0].Since, first.Refused[0].Message)
	}
	step("a new one is bad", file, []istio.File{bad("a"), b, bad("d")}, []string{"a.example.com"}, nil, "ServiceEntry default/a true", "ServiceEntry default/d false")
	step("good again", file, []istio.File{entry("a", "a2.example.com"), b}, []string{"a2.example.com"}, []string{"a.example.com"})
	step("bad again", file, []istio.File{bad("a"), b}, []string{"a2.example.com"}, nil, "ServiceEntry default/a true")
	step("deleted", file, []istio.File{b}, []string{"b.example.com"}, []string{"a2.example.com"})
	step("created, and bad", file, []istio.File{bad("a"), b}, []string{"b.example.com"}, []string{"a2.example.com"}, "ServiceEntry default/a false")
	// A name that a file has is the file's.
	twice := entry("base", "other.example.com")
	twice.Data = bytes.Replace(twice.Data, []byte("ServiceEntry"), []byte("VirtualService"), 1)
	if l, err := r.Load([]istio.File{{Name: "base.yaml", Data: bad("base").Data}}, []istio.File{b}, false, try); !errors.Is(err, ErrPolicy) {
		t.Errorf("a bad file is loaded: %v, %v", l.Findings, err)
	}
}

// TestRefusedUnnamed: an error that names no object is found to be of the objects that
// cause it, and those alone are left out, in few tries.
func TestRefusedUnnamed(t *testing.T) {
	var objects []istio.File
	for i := range 500 {
		objects = append(objects, entry(fmt.Sprintf("e%03d", i), fmt.Sprintf("h%d.example.com", i)))
	}
	const poison = "poison.example.com"
	loads := 0
	from := reading()
	try := func(files []istio.File) (Result, error) {
		loads++
		l, err := from(files)
		for _, f := range files {
			if strings.Contains(string(f.Data), poison) {
				l.Snapshot, err = nil, fmt.Errorf("%w: it does not compile", ErrPolicy)
			}
		}
		return l, err
	}
	var r Refusals
	for _, known := range []bool{false, true} {
		if known {
			if _, err := r.Load(nil, objects, true, try); err != nil {
				t.Fatal(err)
			}
		}
		with := slices.Clone(objects)
		with[123], with[400] = entry("e123", poison), entry("e400", poison)
		loads = 0
		l, err := r.Load(nil, with, true, try)
		if err != nil || len(l.Refused) != 2 || l.Refused[0].Object != "ServiceEntry default/e123" || l.Refused[1].Object != "ServiceEntry default/e400" {
			t.Fatalf("known %t: refused %v, %v", known, l.Refused, err)
		}
		if opens(l, "h123.example.com") != known || !opens(l, "h124.example.com") || opens(l, poison) {
			t.Errorf("known %t: what is open is wrong", known)
		}
		if known && loads > 8 || loads > searchTries+2 {
			t.Errorf("known %t: loaded %d times", known, loads)
		}
	}
	// Far too many: nothing that was good is lost.
	for i := range objects {
		objects[i] = entry(fmt.Sprintf("e%03d", i), poison)
	}
	l, err := r.Load(nil, objects, true, try)
	if err != nil || len(l.Refused) != len(objects) || !opens(l, "h124.example.com") {
		t.Errorf("refused %d, %v", len(l.Refused), err)
	}
}
