// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// dockerAPI stands for Docker: it answers its API at a socket while it is there.
type dockerAPI struct {
	t      *testing.T
	socket string
	server *http.Server
	names  map[string]string // of containers, by id; not changed while it answers
}

// begin lets it answer.
func (r *dockerAPI) begin(names map[string]string) {
	r.t.Helper()
	r.names = names
	ln, err := new(net.ListenConfig).Listen(r.t.Context(), "unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		id := strings.TrimSuffix(strings.TrimPrefix(q.URL.Path, "/containers/"), "/json")
		name, ok := names[id]
		if !ok {
			http.NotFound(w, q)
			return
		}
		fmt.Fprintf(w, `{"Id":%q,"Name":"/%s","Config":{"Image":"nginx:1.27","Labels":{"app":"web"}}}`, id, name)
	})}
	go func() { _ = r.server.Serve(ln) }()
}

// end lets nobody answer.
func (r *dockerAPI) end() {
	if r.server != nil {
		_ = r.server.Close()
		_ = os.Remove(r.socket)
	}
}

// containerCgroup makes the cgroup of a container at a path, in which DIGIT stands for its id.
func (n *node) containerCgroup(t *testing.T, path, digit string) *world.Cgroup {
	t.Helper()
	path = filepath.Join(n.d.Root.Path(), strings.ReplaceAll(path, "ID", strings.Repeat(digit, 64)))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	cg, err := world.MakeCgroup(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cg.Close() })
	return cg
}

const containerWorkload = `apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: web, namespace: shop}
spec:
  containers: [{name: "web-*", image: nginx, labels: {app: web}, runtime: docker}]
`

// own makes a policy visible to the namespace shop alone.
func own(config map[string]string) map[string]string {
	for name, text := range config {
		text = strings.ReplaceAll(text, "metadata:\n  name:", "metadata:\n  namespace: shop\n  name:")
		config[name] = strings.ReplaceAll(text, "metadata: {name:", "metadata: {namespace: shop, name:")
		config[name] = strings.ReplaceAll(config[name], "\nspec:\n", "\nspec:\n  exportTo: [\".\"]\n")
	}
	return config
}

// TestContainers: a container of a runtime is locked from its first packet until the
// runtime says what it is, and is what its Workload says then. While the runtime is away,
// who is known keeps the policy, and who is new is locked, and why is said. This is so with
// all places that runtimes have for cgroups.
func TestContainers(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"docker/ID", "system.slice/docker-ID.scope"} {
		t.Run(strings.ReplaceAll(path, "/", "_"), func(t *testing.T) {
			t.Parallel()
			config := own(seed(t, "googleapis.yaml"))
			config["api.yaml"] = own(map[string]string{"": tcp("api", world.API, "7")})[""]
			config["workloads.yaml"] = containerWorkload
			n := prepare(t, config, nil, "--container-runtimes", "docker={dir}/d.sock")
			k := &kubelet{node: n, t: t}
			r := &dockerAPI{t: t, socket: filepath.Join(n.Dir(), "d.sock")}
			t.Cleanup(r.end)
			k.isFree("without egressd", n.containerCgroup(t, path, "a"))
			if err := n.d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			a := n.containerCgroup(t, path, "1")
			inner := func(in string) *world.Cgroup { return n.containerCgroup(t, path+"/"+in, "1") }
			id := strings.Repeat("1", 64)
			k.isUnknown("at once", id, a) // the kernel needs nobody
			k.await("the container is named, with the reason", func(s state) bool { return strings.Contains(s.Capture.UnknownContainers[id], "d.sock") })
			k.isUnknown("without a runtime", id, a)
			e := k.event(t, "the denial", func(e flow.Event) bool {
				return e.Reason == policy.ReasonUnknownWorkload && strings.Contains(e.Detail, id)
			})
			if e.Workload != "unknown-container" {
				t.Errorf("the denial: %+v", e)
			}
			if out := n.egressd(t, "status").stdout; !strings.Contains(out, "UNKNOWN CONTAINERS") || !strings.Contains(out, id[:12]) {
				t.Errorf("status:\n%s", out)
			}
			r.begin(map[string]string{id: "web-1", strings.Repeat("2", 64): "other"})
			k.await("the container is known", func(s state) bool { return has("shop/web")(s) && s.Capture.UnknownContainers[id] == "" })
			k.isShop("when it is known", a)
			k.isShop("a cgroup that the container made", inner("container"))
			k.isShop("one with a name of another", n.containerCgroup(t, path+"/"+"docker/"+strings.Repeat("2", 64), "1"))
			b := n.containerCgroup(t, path, "2")
			k.await("the other one is known", func(s state) bool { return len(s.Capture.UnknownContainers[strings.Repeat("2", 64)]) == 0 })
			eventually(t, soon, "the other one has the node's policy", func() bool {
				_ = k.probe(t, b, "dial", k.Echo.Addr.String())
				for _, e := range n.flows(t, "--verdict", "deny") {
					if e.Workload == "node" && e.Dst.Port() == k.Echo.Addr.Port() {
						return true
					}
				}
				return false
			})
			r.end()
			k.isShop("while the runtime is away", a)
			c := n.containerCgroup(t, path, "3")
			k.await("the new one is named", func(s state) bool { return s.Capture.UnknownContainers[strings.Repeat("3", 64)] != "" })
			k.isUnknown("new, while the runtime is away", strings.Repeat("3", 64), c)
			k.isShop("known before", a)
			// Without a daemon the kernel goes on with what it knows.
			if err := n.d.Kill(); err != nil {
				t.Fatal(err)
			}
			if p := k.probe(t, a, "dial", k.Echo.Addr.String()); p.Error != "" {
				t.Errorf("known, without a daemon: %+v", p)
			}
			k.isUnknown("unknown, without a daemon", strings.Repeat("3", 64), c)
			k.isUnknown("new, without a daemon", strings.Repeat("4", 64), n.containerCgroup(t, path, "4"))
		})
	}
}
