// SPDX-License-Identifier: Apache-2.0

package podcgroup

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	uid    = "0f1b5a3e-1c2d-4e5f-8a9b-0123456789ab"
	static = "5d1f0c1e7f3b4a6c8d9e0f1a2b3c4d5e"
	id     = "3f2a9c0d1e4b5a69788796a5b4c3d2e1f00112233445566778899aabbccddeef"
)

var escaped = strings.ReplaceAll(uid, "-", "_")

// TestPaths: a path is what the kubelet and the runtime make of a pod, by driver, runtime and
// place, and it tells the pod again.
func TestPaths(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ root, qos, uid, want string }{
		{"kubepods", Guaranteed, uid, "kubepods/pod" + uid},
		{"kubepods", Burstable, uid, "kubepods/burstable/pod" + uid},
		{"kubepods", BestEffort, uid, "kubepods/besteffort/pod" + uid},
		{"kubepods", Burstable, static, "kubepods/burstable/pod" + static},
		{"kubepods.slice", Guaranteed, uid, "kubepods.slice/kubepods-pod" + escaped + ".slice"},
		{"kubepods.slice", Burstable, uid, "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + escaped + ".slice"},
		{"kubepods.slice", BestEffort, uid, "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + escaped + ".slice"},
		{"kubepods.slice", Burstable, static, "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + static + ".slice"},
		// kind, from inside the node and from around it; a --cgroup-root.
		{"kubelet/kubepods", Burstable, uid, "kubelet/kubepods/burstable/pod" + uid},
		{"docker/" + id + "/kubelet/kubepods", BestEffort, uid, "docker/" + id + "/kubelet/kubepods/besteffort/pod" + uid},
		{"kubelet.slice/kubelet-kubepods.slice", Burstable, uid, "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + escaped + ".slice"},
		{"system.slice/docker-" + id + ".scope/kubelet.slice/kubelet-kubepods.slice", Guaranteed, uid, "system.slice/docker-" + id + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + escaped + ".slice"},
		{"a.slice/a-b.slice/a-b-kubepods.slice", BestEffort, uid, "a.slice/a-b.slice/a-b-kubepods.slice/a-b-kubepods-besteffort.slice/a-b-kubepods-besteffort-pod" + escaped + ".slice"},
	} {
		r := Root(c.root)
		if got := r.Path(c.uid, c.qos); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.root, c.qos, got, c.want)
			continue
		}
		for name, container := range map[string]string{
			"":                                "",
			id:                                id, // containerd and CRI-O, cgroupfs
			"crio-" + id:                      id,
			"cri-containerd-" + id + ".scope": id,
			"crio-" + id + ".scope":           id,
			"docker-" + id + ".scope":         id,
			"crio-conmon-" + id + ".scope":    "",
			"init.scope":                      "",
			"crio-" + id + ".scope/container": id, // crun's
			id + "/kubelet/kubepods/burstable/podinner": id, // a node in a pod
		} {
			want := Pod{Root: r, UID: c.uid, Class: c.qos, Container: container}
			at := path.Join(c.want, name)
			if got, ok := r.Of(at); !ok || got != want {
				t.Errorf("%s: %+v, %t, want %+v", at, got, ok, want)
			}
			if got, ok := Of(at); !ok || got != want {
				t.Errorf("%s without its root: %+v, %t, want %+v", at, got, ok, want)
			}
		}
	}
}

// TestMoved: a pod's cgroup is named in one way, whatever the kubelet's is, and nothing else is
// taken for one.
func TestMoved(t *testing.T) {
	t.Parallel()
	for _, r := range append(slices.Clone(Usual), "a.slice/a-kubepods.slice") {
		for _, qos := range []string{Guaranteed, Burstable, BestEffort} {
			want := r.Path(uid, qos)
			for _, from := range Usual {
				if got := r.Moved(from.Path(uid, qos)); got != want {
					t.Errorf("%s moved to %s: %s, want %s", from.Path(uid, qos), r, got, want)
				}
			}
			if got := r.Moved(Path(uid, qos)); got != want {
				t.Errorf("%s: %s, want %s", r, got, want)
			}
		}
		for _, same := range []string{"", "kubepods", "kubepods/burstable/pod*", "kubepods/**", "kubepods/pod" + uid + "/" + id, "system.slice/x", "b/kubepods/pod" + uid} {
			if got := r.Moved(same); got != same {
				t.Errorf("%q moved to %s: %q", same, r, got)
			}
		}
	}
}

// TestNoPod: what is no pod's is told from it, and nothing that is no UID gets into a path.
func TestNoPod(t *testing.T) {
	t.Parallel()
	for _, at := range []string{
		"", "kubepods", "kubepods/burstable", "kubepods/burstable/", "kubepods/egressd-probe", "kubepods/burstable/pod", "kubepods/pod-x",
		"kubepods/burstable/pod" + uid + "*", "kubepods/pod..", "notkubepods/burstable/pod" + uid, "kubepods.slice/kubepods-burstable.slice",
		"kubepods.slice/burstable/pod" + uid, "kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-pod" + escaped + ".slice",
		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid + ".slice", "kubepods.slice/kubepods-pod" + escaped,
		"kubelet.slice/kubelet-kubepods.slice/kubepods-pod" + escaped + ".slice", "system.slice/kubelet.service", "user.slice/x/podx",
	} {
		if p, ok := Of(at); ok {
			t.Errorf("%q is taken for a cgroup of pod %+v", at, p)
		}
	}
	for _, bad := range []string{"", "*", "a/b", "..", "a_b", "a.b", "[a]", "a?", "-a", "a-", "a b", "a\n", strings.Repeat("a", maxUID+1)} {
		for _, r := range Usual {
			if got := r.Path(bad, Burstable); got != "" {
				t.Errorf("UID %q: %s", bad, got)
			}
		}
	}
	if got := Root("kubepods").Path(uid, "Best"); got != "" {
		t.Errorf("no class: %s", got)
	}
	if _, ok := Root("kubepods").Of("kubepods.slice/kubepods-pod" + escaped + ".slice"); ok {
		t.Error("a pod below another root")
	}
}

func FuzzOf(f *testing.F) {
	for _, r := range Usual {
		for _, qos := range []string{Guaranteed, Burstable, BestEffort} {
			f.Add(r.Path(uid, qos)+"/cri-containerd-"+id+".scope", uid, qos)
		}
	}
	f.Add("a/kubepods/b/kubepods/podx", "x", Guaranteed)
	f.Fuzz(func(t *testing.T, at, uid, qos string) {
		if p, ok := Of(at); ok {
			// The pod's own cgroup is around it, by the same rules that make paths.
			own := p.Root.Path(p.UID, p.Class)
			if own == "" || at != own && !strings.HasPrefix(at, own+"/") {
				t.Errorf("%q is said to be of pod %+v, whose cgroup is %q", at, p, own)
			}
		}
		for _, r := range Usual {
			own := r.Path(uid, qos)
			if own == "" {
				continue
			}
			if strings.ContainsAny(own, "*?[]\\ \n") || path.Clean(own) != own {
				t.Errorf("UID %q: %q", uid, own)
			}
			if p, ok := Of(own); !ok || p.UID != uid || p.Class != qos || p.Root != r {
				t.Errorf("%q: %+v, %t", own, p, ok)
			}
		}
	})
}

func mkdir(t *testing.T, root string, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFind: the roots are found by name, nearest first, when they are there, and not where a
// user or a pod could have made them.
func TestFind(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's directories count")
	}
	for _, c := range []struct {
		dirs, owned, want string
	}{
		{"system.slice/kubelet.service user.slice", "", ""},
		{"system.slice kubepods/burstable", "", "kubepods"},
		{"kubepods.slice kubepods", "", "kubepods kubepods.slice"},
		{"kubelet.slice/kubelet-kubepods.slice", "", "kubelet.slice/kubelet-kubepods.slice"},
		{"docker/x/kubelet/kubepods kubepods.slice", "", "kubepods.slice docker/x/kubelet/kubepods"},
		{"system.slice/docker-x.scope/kubelet.slice/kubelet-kubepods.slice", "", "system.slice/docker-x.scope/kubelet.slice/kubelet-kubepods.slice"},
		{"a/b/c/d/e/kubepods", "", ""}, // too deep
		{"kubepods/besteffort/podx/y/kubepods", "", "kubepods"},
		{"user.slice/u/kubepods kubepods", "user.slice/u", "kubepods"},
		{"kubepods", "kubepods", ""},
	} {
		dir := t.TempDir()
		mkdir(t, dir, strings.Fields(c.dirs)...)
		for _, owned := range strings.Fields(c.owned) {
			if err := os.Chown(filepath.Join(dir, owned), 1000, 1000); err != nil {
				t.Fatal(err)
			}
		}
		roots, watch := Find(dir)
		var got []string
		for _, r := range roots {
			got = append(got, string(r))
		}
		if strings.Join(got, " ") != c.want || !slices.Contains(watch, dir) {
			t.Errorf("%s: %v, want %s; watched: %v", c.dirs, got, c.want, watch)
		}
	}
}

// TestPods: those that have a cgroup, of each class, and nothing else.
func TestPods(t *testing.T) {
	t.Parallel()
	for _, r := range Usual {
		dir := t.TempDir()
		want := map[string]Pod{}
		mkdir(t, dir, path.Join(string(r), "egressd-probe"))
		if got := r.Pods(dir); len(got) != 0 {
			t.Errorf("%s without pods: %v", r, got)
		}
		for _, qos := range []string{Guaranteed, Burstable, BestEffort} {
			at := r.Path(uid, qos)
			mkdir(t, dir, path.Join(at, id))
			want[at] = Pod{Root: r, UID: uid, Class: qos}
		}
		if got := r.Pods(dir); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", r, got, want)
		}
	}
	if got := Root("none").Pods(t.TempDir()); len(got) != 0 {
		t.Errorf("a root that is not there: %v", got)
	}
}

// TestLogged: names are read where only root can have written them.
func TestLogged(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's directories count")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mkdir(t, dir, "kube-system_dns-x.y_"+uid, "a_b", "a_b_c_d", "_b_"+uid+"1", "a__"+uid+"2", "other_user_"+uid+"3", "kube-system_static-node1_"+static)
	if err := os.Chown(filepath.Join(dir, "other_user_"+uid+"3"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a_file_"+uid+"4"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]Name{uid: {"kube-system", "dns-x.y"}, static: {"kube-system", "static-node1"}}
	if got, err := Logged(dir); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := Logged(dir + "/none"); err != nil || len(got) != 0 {
		t.Errorf("not there: %v, %v", got, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if got, err := Logged(dir); err == nil || len(got) != 0 {
		t.Errorf("a directory that anybody writes to: %v, %v", got, err)
	}
}
