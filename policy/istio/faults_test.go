// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// good is a set of objects to which others are added.
func good(t *testing.T) []File {
	t.Helper()
	files := []File{{Name: "good/mesh.yaml", Data: []byte("apiVersion: egressd.dev/v1\nkind: MeshConfig\nmetadata: {name: good-mesh}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n")}}
	for i, text := range []string{
		"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: good}\nspec: {hosts: [good.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}\n",
		"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: good}\nspec: {hosts: [good.example.com], tls: [{match: [{sniHosts: [good.example.com]}], route: [{destination: {host: good.example.com}}]}]}\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80, name: http}]}\n",
		"apiVersion: v1\nkind: Endpoints\nmetadata: {name: good}\nsubsets: [{addresses: [{ip: 10.1.2.3}], ports: [{port: 8080, name: http}]}]\n",
		"apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: good, namespace: good}\nspec: {cgroups: [good.slice/**], mode: enforce}\n",
		"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: good, namespace: good}\nspec: {egress: [{hosts: ['*/*']}]}\n",
	} {
		files = append(files, File{Name: fmt.Sprintf("good/%d.yaml", i), Data: []byte(text)})
	}
	return files
}

// without loads files, leaves out those that errors name until there are none,
// and returns what is left, and what was left out.
func without(t *testing.T, r *Reader, files []File) (text string, out []string) {
	t.Helper()
	text, said := leaveOut(t, r, files)
	for name := range said {
		out = append(out, name)
	}
	return text, out
}

// leaveOut is without, with what was said about each file that was left out.
func leaveOut(t *testing.T, r *Reader, files []File) (text string, said map[string]string) {
	t.Helper()
	said = map[string]string{}
	for range files {
		cfg, findings := r.Load(files)
		if cfg != nil {
			return render(cfg), said
		}
		bad := map[string]bool{}
		for _, f := range findings {
			if f.Severity == Error {
				bad[f.File] = true
				said[f.File] += f.Text + "\n"
			}
		}
		left := slices.DeleteFunc(slices.Clone(files), func(f File) bool { return bad[f.Name] })
		if len(left) == len(files) {
			t.Fatalf("refused for files that are not there: %v", findings)
		}
		files = left
	}
	t.Fatal("everything was left out, and that is refused")
	return "", nil
}

// TestFaultsAreOfTheirFiles: an error names the file of the object at fault.
// Beside a good set, files with mistakes are left out by what errors say, and
// what remains is what the good set is, with what is good of the others.
func TestFaultsAreOfTheirFiles(t *testing.T) {
	base := good(t)
	cfg, findings := NewReader(goldenOptions).Load(base)
	if cfg == nil {
		t.Fatal(findings)
	}
	kept, refused := NewReader(goldenOptions), 0 // also: its past does not show
	for _, name := range slices.Concat(glob(t, "testdata/mistakes/*.yaml"), glob(t, "testdata/invalid/*.yaml"), glob(t, "testdata/valid/*.yaml")) {
		t.Run(strings.TrimPrefix(name, "testdata/"), func(t *testing.T) {
			var more []File
			for i, c := range strictyaml.Split(readFile(t, name).Data) {
				more = append(more, File{Name: fmt.Sprintf("more/%d.yaml", i), Data: c.Text})
			}
			files := slices.Concat(base, more)
			got, said := leaveOut(t, kept, files)
			out := slices.Collect(maps.Keys(said))
			if len(out) > 0 {
				refused++
			}
			for _, name := range out {
				if strings.HasPrefix(name, "good/") {
					t.Errorf("%s is left out, which was good by itself and came first", name)
				}
			}
			// The same objects, without those that were left out.
			left := slices.DeleteFunc(slices.Clone(files), func(f File) bool { return slices.Contains(out, f.Name) })
			cfg, findings := NewReader(goldenOptions).Load(left)
			if cfg == nil {
				t.Fatal(findings)
			}
			if want := render(cfg); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			// Each of those is refused beside the rest, unless it was for another one
			// that is left out.
			for _, name := range out {
				i := slices.IndexFunc(files, func(f File) bool { return f.Name == name })
				other := slices.ContainsFunc(out, func(o string) bool { return strings.Contains(said[name], o) })
				if cfg, _ := NewReader(goldenOptions).Load(append(slices.Clone(left), files[i])); cfg != nil && !other {
					t.Errorf("%s is left out and good beside the rest", name)
				}
			}
		})
	}
	if refused < 40 {
		t.Errorf("only %d sets had errors", refused)
	}
}

// TestFaultsBetweenFiles: where objects exclude each other, the one that comes
// later is at fault.
func TestFaultsBetweenFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		doc string
		bad bool
	}{
		"the same name":            {"apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 81}]}\n", true},
		"a ServiceEntry":           {"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: good}\nspec: {hosts: [b.example.com], ports: [{number: 80, name: http, protocol: HTTP}]}\n", false},
		"a second MeshConfig":      {"apiVersion: egressd.dev/v1\nkind: MeshConfig\nmetadata: {name: other}\nspec: {trustDomain: other.example}\n", true},
		"a cgroup of another":      {"apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: thief, namespace: other}\nspec: {cgroups: [good.slice/**]}\n", true},
		"a cgroup set free":        {"apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: thief, namespace: other}\nspec: {cgroups: [good.slice/a.service], mode: \"off\"}\n", true},
		"an older second of names": {"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: good, namespace: good, creationTimestamp: \"2001-01-01T00:00:00Z\"}\nspec: {egress: [{hosts: ['./*']}]}\n", true},
		"good":                     {"apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {ports: [{port: 81}]}\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			base := good(t)
			want, _ := without(t, NewReader(goldenOptions), base)
			got, out := without(t, NewReader(goldenOptions), append(base, File{Name: "more", Data: []byte(tt.doc)}))
			switch {
			case tt.bad && (!slices.Equal(out, []string{"more"}) || got != want):
				t.Errorf("%v is left out, and the rest is\n%s\nwant\n%s", out, got, want)
			case !tt.bad && len(out) > 0:
				t.Errorf("%v is left out", out)
			}
		})
	}
}
