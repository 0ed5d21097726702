// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/policy/config"
)

const (
	idA = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	idB = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
)

// paths are cgroups as runtimes make them; A and B stand for ids. "": of no container.
var paths = []struct {
	path, of string
	runtime  Runtime
	id       string
}{
	// Docker with the drivers systemd and cgroupfs, and with --cgroup-parent.
	{"system.slice/docker-A.scope", "system.slice/docker-A.scope", Docker, idA},
	{"docker.slice/docker-A.scope", "docker.slice/docker-A.scope", Docker, idA},
	{"a.slice/a-b.slice/docker-A.scope/init", "a.slice/a-b.slice/docker-A.scope", Docker, idA},
	{"docker/A", "docker/A", Docker, idA},
	{"docker/A/nested/docker/B", "docker/A", Docker, idA},
	{"parent/A", "parent/A", "", idA},
	// podman: systemd, cgroupfs, what crun and systemd in the container make below, pods.
	{"machine.slice/libpod-A.scope", "machine.slice/libpod-A.scope", Podman, idA},
	{"machine.slice/libpod-A.scope/container", "machine.slice/libpod-A.scope", Podman, idA},
	{"machine.slice/libpod-A.scope/container/system.slice/docker-B.scope", "machine.slice/libpod-A.scope", Podman, idA},
	{"libpod_parent/libpod-A", "libpod_parent/libpod-A", Podman, idA},
	{"machine.slice/machine-libpod_pod_B.slice/libpod-A.scope", "machine.slice/machine-libpod_pod_B.slice/libpod-A.scope", Podman, idA},
	{"libpod_parent/B/libpod-A", "libpod_parent/B/libpod-A", Podman, idA},
	{"libpod_parent/B", "", "", ""},
	{"system.slice/web.service/libpod-payload-A", "", "", ""},
	// podman's monitors, and what is no container.
	{"machine.slice/libpod-conmon-A.scope", "", "", ""},
	{"libpod_parent/conmon", "", "", ""},
	{"machine.slice/machine-vm.scope", "", "", ""},
	// containerd: nerdctl with both drivers, CRI beside the kubelet's tree.
	{"system.slice/nerdctl-A.scope", "system.slice/nerdctl-A.scope", Containerd, idA},
	{"default/A", "default/A", "", idA},
	{"system.slice/cri-containerd-A.scope", "system.slice/cri-containerd-A.scope", Containerd, idA},
	// containerd by itself: its namespaces, in which names are anybody's choice.
	{"default/web", "default/web", Containerd, "default/web"},
	{"default/web_1.2-x/init", "default/web_1.2-x", Containerd, "default/web_1.2-x"},
	{"default/web/docker/A", "default/web", Containerd, "default/web"},
	{"a.slice/a-b.slice/default/web", "a.slice/a-b.slice/default/web", Containerd, "default/web"},
	{"docker/default/web", "docker/default/web", Containerd, "default/web"},
	{"shop/web", "shop/web", Containerd, "shop/web"},
	{"shop/A", "shop/A", "", idA},
	{"k8s.io/A", "k8s.io/A", "", idA},
	{"default", "", "", ""},
	{"default/.web", "", "", ""},
	{"default/web--x", "", "", ""},
	{"default/web-", "", "", ""},
	{"default/a b", "", "", ""},
	{"default/" + strings.Repeat("x", maxIdentifier+1), "", "", ""},
	{"other/web", "", "", ""},
	{"a.slice/shop/web", "", "", ""},
	{"try/default/web", "", "", ""},
	// Pods are Kubernetes's.
	{"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/cri-containerd-A.scope", "", "", ""},
	{"kubepods/burstable/pod1/A", "", "", ""},
	{"system.slice/docker-B.scope/kubepods/pod1/A", "", "", ""},
	// Not whole, or not a path.
	{"system.slice/docker-0123.scope", "", "", ""},
	{"system.slice/docker-A", "", "", ""},
	{"system.slice/A.scope", "", "", ""},
	{"docker/AA", "", "", ""},
	{"docker/A/..", "", "", ""},
	{"/docker/A", "", "", ""},
	{"docker//A", "", "", ""},
	{"", "", "", ""},
}

func expand(s string) string {
	names := strings.Split(s, "/")
	for i, n := range names {
		for short, id := range map[string]string{"A": idA, "B": idB} {
			base, scope := strings.CutSuffix(n, ".scope")
			prefix, ok := strings.CutSuffix(base, short)
			if ok && (prefix == "" || strings.HasSuffix(prefix, "-")) {
				names[i] = prefix + id
				if scope {
					names[i] += ".scope"
				}
			}
		}
	}
	return strings.Join(names, "/")
}

func TestOf(t *testing.T) {
	for _, tt := range paths {
		got, ok := Of(expand(tt.path), "shop")
		want := Instance{Path: expand(tt.of), ID: tt.id, Runtime: tt.runtime}
		if ok != (tt.of != "") || ok && got != want {
			t.Errorf("Of(%q) = %+v, %t, want %+v", tt.path, got, ok, want)
		}
	}
	if _, ok := Of("docker/" + strings.ToUpper(idA)); ok {
		t.Error("an id in capitals")
	}
}

func FuzzOf(f *testing.F) {
	for _, tt := range paths {
		f.Add(expand(tt.path))
	}
	f.Fuzz(func(t *testing.T, dir string) {
		c, ok := Of(dir, "shop")
		if !ok {
			if c != (Instance{}) {
				t.Errorf("%q: %+v of none", dir, c)
			}
			return
		}
		if dir != c.Path && !strings.HasPrefix(dir, c.Path+"/") || !isID(c.ID) && c.Runtime != Containerd || !strings.Contains(c.Path, c.ID) {
			t.Errorf("Of(%q) = %+v", dir, c)
		}
		// Whatever is made in a container is that container's.
		if inner, ok := Of(c.Path+"/docker/"+idB, "shop"); !ok || inner != c {
			if _, pod := podcgroup.Of(c.Path + "/docker/" + idB); !pod {
				t.Errorf("in %+v: %+v", c, inner)
			}
		}
		if outer, ok := Of(path.Dir(c.Path), "shop"); ok {
			t.Errorf("%+v is in %+v", c, outer)
		}
	})
}

// TestFind: what only root could have made is found, with the places of containers.
func TestFind(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's cgroups are a runtime's")
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{
		"system.slice/docker-A.scope/init", "system.slice/shop.service", "machine.slice/libpod-B.scope/container", "machine.slice/libpod-conmon-B.scope",
		"user.slice/user-1000.slice/user@1000.service/user.slice/libpod-B.scope", "docker/buildkit/abc", "libpod_parent/B/libpod-A",
		"machine.slice/machine-libpod_pod_A.slice", "kubepods/pod1/A",
		"1/2/3/4/5/6/docker/A", "default/web/docker/B", "shop/db", "shop/-", "try/x",
	} {
		if err := os.MkdirAll(filepath.Join(root, expand(dir)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The user's manager makes what it likes: a cgroup with the name of root's container.
	if err := os.Chown(filepath.Join(root, "user.slice/user-1000.slice/user@1000.service"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "loose"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "loose"), 0o777); err != nil {
		t.Fatal(err)
	}
	f := Find(root, "shop")
	var got []string
	for dir, c := range f.Containers {
		got = append(got, dir)
		if c.Path != dir {
			t.Errorf("%s: %+v", dir, c)
		}
	}
	slices.Sort(got)
	if want := []string{"default/web", expand("libpod_parent/B/libpod-A"), expand("machine.slice/libpod-B.scope"), "shop/db", expand("system.slice/docker-A.scope")}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	slices.Sort(f.Places)
	slices.Sort(f.Beside)
	if want := []string{"default", "docker", "libpod_parent", expand("libpod_parent/B"), "machine.slice", "machine.slice/machine-libpod_pod_A.slice", "shop"}; !slices.Equal(f.Places, want) {
		t.Errorf("places %q, want %q", f.Places, want)
	}
	if want := []string{"docker/buildkit", expand("machine.slice/libpod-conmon-B.scope"), "shop/-"}; !slices.Equal(f.Beside, want) {
		t.Errorf("beside %q, want %q", f.Beside, want)
	}
	slices.Sort(f.Namespaces)
	if want := []string{"default", "shop"}; !slices.Equal(f.Namespaces, want) {
		t.Errorf("namespaces %q, want %q", f.Namespaces, want)
	}
	slices.Sort(f.Unexplained)
	if want := []string{"1", "kubepods", "try"}; !slices.Equal(f.Unexplained, want) {
		t.Errorf("unexplained %q, want %q", f.Unexplained, want)
	}
	for _, dir := range []string{"", "system.slice", "machine.slice", "docker", "user.slice/user-1000.slice"} {
		if !slices.Contains(f.Watch, filepath.Join(root, dir)) {
			t.Errorf("%q is not watched: %q", dir, f.Watch)
		}
	}
	if f.Incomplete {
		t.Error("not all was looked at")
	}
}

func TestSelects(t *testing.T) {
	is := Description{Runtime: Podman, Name: "web-1", Image: "docker.io/library/nginx:1.27", Labels: map[string]string{"app": "web", "": "x", "empty": ""}}
	type sel = config.ContainerSelector
	for _, tt := range []struct {
		s    sel
		want bool
	}{
		{sel{Name: "web-1"}, true},
		{sel{Name: "web-*"}, true},
		{sel{Name: "*"}, true},
		{sel{Name: "*-1*"}, true},
		{sel{Name: "*e*b*1"}, true},
		{sel{Name: "web"}, false},
		{sel{Name: "web-*1*1"}, false},
		{sel{Name: "web-1", Runtime: "podman"}, true},
		{sel{Name: "web-1", Runtime: "docker"}, false},
		{sel{Labels: map[string]string{"app": "web", "empty": ""}}, true},
		{sel{Labels: map[string]string{"app": "web", "none": ""}}, false},
		{sel{Labels: map[string]string{"app": "*"}}, false},
		{sel{Name: "web-1", Labels: map[string]string{"app": "db"}}, false},
	} {
		if got := Selects(tt.s, is); got != tt.want {
			t.Errorf("%v selects: %t", tt.s, got)
		}
	}
}

func TestImages(t *testing.T) {
	const digest = "@sha256:" + idA
	for _, tt := range []struct {
		pattern, image string
		want           bool
	}{
		{"nginx", "nginx", true},
		{"nginx", "docker.io/library/nginx:1.27", true},
		{"docker.io/nginx", "nginx:1.27", true},
		{"nginx:1.27", "docker.io/library/nginx:1.27", true},
		{"nginx:1.*", "nginx:1.27", true},
		{"nginx:1.*", "nginx:2", false},
		{"nginx:latest", "nginx", true},
		{"nginx:1", "nginx", false},
		{"nginx", "nginx" + digest, true},
		{"nginx" + digest, "nginx" + digest, true},
		{"nginx" + digest, "nginx:1.27", false},
		{"me/app", "docker.io/me/app:1", true},
		{"docker.io/library/*", "nginx", true},
		// Another registry, or another owner, is another image.
		{"nginx", "localhost/nginx:1.27", false},
		{"nginx", "evil/nginx", false},
		{"nginx", "evil.example/library/nginx", false},
		{"ngin*", "evil.example/nginx", false},
		{"registry.example:5000/*/web", "registry.example:5000/shop/web:3", true},
		{"registry.example:5000/*", "registry.example:5000/shop/web", false},
		{"registry.example/app", "registry.example.evil.example/app", false},
		{"registry.example/app", "registry.example:5000/app", false},
		{"*", "", false},
		{"nginx", idA, false},
	} {
		if got := Selects(config.ContainerSelector{Image: tt.pattern}, Description{Image: tt.image}); got != tt.want {
			t.Errorf("%q is %q: %t", tt.pattern, tt.image, got)
		}
	}
}

// TestCompareSelectors: who says more comes first, in whatever order they are written.
func TestCompareSelectors(t *testing.T) {
	type sel = config.ContainerSelector
	want := []sel{
		{Name: "web-1"},
		{Name: "web-*", Image: "nginx"},
		{Name: "web-*", Image: "ngin*"},
		{Name: "web-*", Labels: map[string]string{"a": "b"}},
		{Name: "web-*", Runtime: "docker"},
		{Name: "web-*"},
		{Name: "w*"},
		{Image: "nginx"},
		{Labels: map[string]string{"a": "b", "c": "d"}},
		{Labels: map[string]string{"a": "b"}},
		{Runtime: "docker"},
	}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, CompareSelectors)
	for i := range want {
		if got[i].String() != want[i].String() {
			t.Errorf("%d: %v, want %v", i, got[i], want[i])
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("web-*", "web-1")
	f.Add("*a*b", "xaxbxb")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if strings.ContainsAny(pattern, `?[\`) || strings.Contains(text, "/") || strings.Contains(pattern, "/") {
			return
		}
		if want, err := path.Match(pattern, text); err == nil && Match(pattern, text) != want {
			t.Errorf("Match(%q, %q) is not %t", pattern, text, want)
		}
	})
}
