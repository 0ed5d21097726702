// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source"
)

// examples returns the files of examples that are good by themselves.
func examples(t *testing.T) []istio.File {
	t.Helper()
	var out []istio.File
	err := filepath.WalkDir("../../examples", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		if l, err := Paths([]string{path}, nil); err == nil {
			out = append(out, l.Files...)
		}
		return nil
	})
	if err != nil || len(out) < 10 {
		t.Fatalf("%d examples: %v", len(out), err)
	}
	return out
}

// TestHashOfLayouts: the same files have the same hash however they are called:
// by a relative or an absolute path, through links, from standard input, or
// mounted as Kubernetes mounts a ConfigMap.
func TestHashOfLayouts(t *testing.T) {
	hash := func(paths ...string) string {
		t.Helper()
		l, err := Paths(paths, nil)
		if err != nil {
			t.Fatal(err, l.Findings)
		}
		return l.Snapshot.Hash()
	}
	for _, f := range examples(t) {
		want := hash(f.Name)
		dir, name := t.TempDir(), filepath.Base(f.Name)
		absolute, err := filepath.Abs(f.Name)
		if err != nil {
			t.Fatal(err)
		}
		// As the kubelet's atomic writer does it.
		data := filepath.Join(dir, "..2026_01_01_00_00_00.1")
		for _, err := range []error{
			os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, name), f.Data, 0o600),
			os.Symlink(filepath.Base(data), filepath.Join(dir, "..data")), os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, path := range []string{absolute, dir, dir + "/", filepath.Join(dir, name), filepath.Join(dir, "..data", name)} {
			if got := hash(path); got != want {
				t.Errorf("%s: %s, as %s %s", f.Name, want, path, got)
			}
		}
		l, err := With([]istio.File{{Name: "<stdin>", Data: append([]byte("# one more line\n"), f.Data...)}}, istio.Options{})
		if err != nil || l.Snapshot.Hash() != want {
			t.Errorf("%s: %s, from standard input %v %v", f.Name, want, l.Snapshot, err)
		}
	}
}

// TestHashOfOrders: files that say nothing of the same hosts have the same hash in
// whatever order, in one directory, as several paths, or in several directories.
func TestHashOfOrders(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for _, n := range []string{"a", "b", "c"} {
		path := filepath.Join(dir, n, n+".yaml")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, strings.ReplaceAll(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: @}
spec:
  hosts: [@.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: @}
spec:
  hosts: [@.example.com]
  http: [{timeout: 3s, route: [{destination: {host: @.example.com}}]}]
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: @, namespace: @}
spec: {cgroups: [@.slice]}
`, "@", n))
		paths = append(paths, path)
	}
	want, err := Paths(paths, nil)
	if err != nil {
		t.Fatal(err, want.Findings)
	}
	for _, order := range [][]int{{1, 0, 2}, {2, 1, 0}, {1, 2, 0}} {
		var files, dirs []string
		for _, i := range order {
			files, dirs = append(files, paths[i]), append(dirs, filepath.Dir(paths[i]))
		}
		for _, in := range [][]string{files, dirs} {
			if got, err := Paths(in, nil); err != nil || got.Snapshot.Hash() != want.Snapshot.Hash() {
				t.Errorf("%v: %v, want the hash of %v", in, err, paths)
			}
		}
	}
}

// TestHashOfUpdates: whatever was in force before, what the daemon has after an
// edit of its files has the hash that the files have when they are read for the
// first time.
func TestHashOfUpdates(t *testing.T) {
	var documents [][]byte
	for _, f := range examples(t) {
		documents = append(documents, bytes.Split(f.Data, []byte("\n---\n"))...)
	}
	compared := 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		dir := t.TempDir()
		var cache source.Cache
		reader, was := istio.NewReader(istio.Options{}), new(policy.Snapshot)
		for step := range 10 {
			some := r.Perm(len(documents))
			for _, name := range []string{"a.yaml", "b.yaml", "c.yaml"} {
				var text [][]byte
				for range 1 + r.IntN(6) {
					text, some = append(text, documents[some[0]]), some[1:]
				}
				writeFile(t, filepath.Join(dir, name), string(bytes.Join(text, []byte("\n---\n"))))
			}
			files, err := cache.Files([]string{dir})
			if err != nil {
				t.Fatal(err)
			}
			var now Result
			config, _ := reader.Load(files)
			err = now.Compile(config, was)
			fresh, again := Paths([]string{dir}, nil)
			if (err == nil) != (again == nil) {
				t.Fatalf("seed %d step %d: %v, and from nothing %v", seed, step, err, again)
			}
			if err != nil {
				continue
			}
			compared++
			if now.Snapshot.Hash() != fresh.Snapshot.Hash() {
				t.Errorf("seed %d step %d: the daemon's hash is %s, from nothing it is %s", seed, step, now.Snapshot.Hash(), fresh.Snapshot.Hash())
			}
			was = now.Snapshot
		}
	}
	if compared < 50 {
		t.Errorf("only %d policies were good", compared)
	}
}

// TestHashOfOptions: what a node's operator allows has no order.
func TestHashOfOptions(t *testing.T) {
	var allowed []policy.AllowedEndpoint
	for _, s := range []string{"unix:///run/a", "127.0.0.1:80", "[::1]:80"} {
		a, err := policy.ParseAllowedEndpoint(s)
		if err != nil {
			t.Fatal(err)
		}
		allowed = append(allowed, a)
	}
	f := []istio.File{{Name: "a.yaml", Data: []byte(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: local}
spec:
  hosts: [local.example.com]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}, {address: "::1"}]
`)}}
	one, err := With(f, istio.Options{AllowEndpoints: allowed})
	if err != nil {
		t.Fatal(err, one.Findings)
	}
	slices.Reverse(allowed)
	if other, err := With(f, istio.Options{AllowEndpoints: allowed}); err != nil || other.Snapshot.Hash() != one.Snapshot.Hash() {
		t.Errorf("%v: the order of what is allowed counts", err)
	}
}
