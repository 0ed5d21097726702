// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// shopUnit is a service that was broken into: it goes where it should, and elsewhere.
const shopUnit = `[Service]
Type=oneshot
ExecStart=/bin/bash -c '{ curl -sS -o /dev/null --noproxy "*" --cacert CA https://api.payment.example/ && echo payment; \
    exec 3<>/dev/tcp/10.0.0.5/5432 && echo database; \
    curl -sS -o /dev/null --noproxy "*" http://STRANGER/ && echo stranger; } >DIR/run/shop 2>DIR/shop.log; true'
`

// TestRecipe: docs/recipes/systemd-unit.md, word for word, with a service of its name.
func TestRecipe(t *testing.T) {
	m := machine(t)
	page, err := os.ReadFile(filepath.Join(m.top, "docs/recipes/systemd-unit.md"))
	must(t, err)
	_, err = m.World.AddOrigin(world.OriginConfig{
		Names: []string{"api.payment.example"}, V4: netip.MustParseAddr("151.101.9.9"), V6: netip.MustParseAddr("2a04:4e42::9"),
	})
	must(t, err)
	_, err = m.World.AddTCP(netip.MustParseAddrPort("10.0.0.5:5432"), "")
	must(t, err)
	fill := strings.NewReplacer("CA", m.World.CAFile(), "DIR", m.Dir, "STRANGER", world.StrangerV4)
	must(t, m.Unit("shop.service", fill.Replace(shopUnit)), m.Install(unit))
	files := 0
	for _, b := range testenv.Blocks(string(page)) {
		if name, ok := strings.CutPrefix(b.Name, "/etc/"); ok && (b.Kind == "yaml" || b.Kind == "ini") {
			must(t, m.Write(name, b.Text))
			files++
		}
	}
	if files != 2 {
		t.Errorf("the page has %d files", files)
	}
	must(t, m.Boot())
	serve := func() string {
		m.systemctl(t, "start", "shop.service")
		out, err := os.ReadFile(filepath.Join(m.Dir, "run/shop"))
		must(t, err)
		return strings.ReplaceAll(string(out), "\n", " ")
	}
	if got := serve(); got != "payment database stranger " {
		t.Fatalf("without egressd: %q", got)
	}
	m.systemctl(t, "restart", unit)
	must(t, m.Is(soon, unit, "ActiveState", "active"))
	before := m.escaped()
	for range 2 { // its cgroup is made anew
		if got := serve(); got != "payment database " {
			t.Errorf("under the recipe: %q", got)
		}
	}
	if got := m.escaped() - before; got != 0 {
		t.Errorf("%d packets to the stranger", got)
	}
	must(t, m.get(t, "http://"+world.Stranger+"/")) // the rest of the machine is free
	if out, err := m.Run("egressd", "status"); err != nil || !strings.Contains(out, "shop/shop") || !strings.Contains(out, "shop.service") {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := m.Run("egressd", "flows", "--verdict", "deny"); err != nil || !strings.Contains(out, world.StrangerV4) || !strings.Contains(out, "shop/shop") {
		t.Errorf("%s, %v", out, err)
	}
}

// podmanSettings let podman start containers on machines that may not raise limits.
const podmanSettings = `[containers]
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "systemd"
events_logger = "file"
`

// TestRecipeContainers: docs/recipes/containers.md, word for word, with Docker and podman side
// by side, podman's API by its socket unit.
func TestRecipeContainers(t *testing.T) {
	m := containerMachine(t)
	page, err := os.ReadFile(filepath.Join(m.top, "docs/recipes/containers.md"))
	must(t, err)
	_, err = m.World.AddOrigin(world.OriginConfig{
		Names: []string{"api.example.com"}, V4: netip.MustParseAddr("151.101.9.9"), V6: netip.MustParseAddr("2a04:4e42::9"),
	})
	must(t, err)
	must(t, os.Remove(m.etc("egressd/policy.yaml")), m.Write("containers/containers.conf", podmanSettings),
		m.Write("containers/storage.conf", "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n"))
	for _, name := range []string{"podman.socket", "podman.service"} {
		text, err := os.ReadFile(filepath.Join("/usr/lib/systemd/system", name)) // Debian's
		must(t, err)
		must(t, m.Unit(name, string(text)))
	}
	var commands []string
	for _, b := range testenv.Blocks(string(page)) {
		switch name, ok := strings.CutPrefix(b.Name, "/etc/"); {
		case ok:
			must(t, m.Write(name, b.Text))
		case b.Kind == "sh":
			for line := range strings.Lines(b.Text) {
				commands = append(commands, strings.TrimPrefix(strings.TrimSpace(line), "sudo "))
			}
		}
	}
	want := []string{"systemctl enable --now podman.socket", "egressd run --config /etc/egressd", "egressd status", "egressd flows --verdict deny"}
	if !slices.Equal(commands, want) {
		t.Fatalf("the page has the commands %q", commands)
	}
	runtimes := map[string]*containers{"docker": docker(m, t, "systemd")}
	m.run(t, strings.Fields(commands[0])...)
	runtimes["podman"] = &containers{m, []string{"/usr/bin/podman"}, nil, nil, nil, namedAsDocker}
	for _, c := range runtimes {
		c.call(t, "import", filepath.Join(m.Dir, "dialer.tar"), "docker.io/library/nginx:1.27")
		c.call(t, "import", filepath.Join(m.Dir, "dialer.tar"), "localhost/other:1")
	}
	m.run(t, append([]string{"systemd-run", "--quiet", "--unit=by-hand", "--service-type=notify"}, strings.Fields(commands[1])...)...)
	before := m.escaped()
	compose := []string{"--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=web"}
	for kind, c := range runtimes {
		dials := func(name, image, addr, tries string, more ...string) string {
			args := append([]string{"run", "--rm", "--network", "host", "--name", name}, more...)
			return c.call(t, append(args, image, "/dialer", addr, tries)...)
		}
		for _, got := range []string{
			dials("web-1", "docker.io/library/nginx:1.27", "api.example.com:443", "200"),
			dials("shop-web-1", "localhost/other:1", "api.example.com:443", "200", compose...),
		} {
			if !strings.HasSuffix(got, "last open") {
				t.Errorf("%s: what is allowed: %q", kind, got)
			}
		}
		for _, door := range doors {
			for _, got := range []string{
				dials("web-1", "docker.io/library/nginx:1.27", door, "3"),
				dials("web-1", "localhost/other:1", door, "3"),
				dials("shop-web-1", "localhost/other:1", door, "3", compose...),
			} {
				if got != "first refused last refused" {
					t.Errorf("%s: what is not allowed: %q", kind, got)
				}
			}
		}
		if got := dials("web-1", "localhost/other:1", "api.example.com:443", "3"); strings.Contains(got, "open") {
			t.Errorf("%s: another image of that name: %q", kind, got)
		}
	}
	if n := m.escaped() - before; n != 0 {
		t.Errorf("%d packets to the stranger left the machine", n)
	}
	runtimes["podman"].call(t, "run", "-d", "--network", "host", "--name", "web-2", "docker.io/library/nginx:1.27", "/dialer", doors[0], "100000")
	must(t, m.await(soon, func() error {
		out, err := m.Run(strings.Fields(commands[2])...)
		if err == nil && !strings.Contains(out, "web/web") {
			err = fmt.Errorf("status does not list web/web: %s", out)
		}
		return err
	}))
	must(t, m.await(soon, func() error {
		out, err := m.Run(strings.Fields(commands[3])...)
		if err == nil && (!strings.Contains(out, world.StrangerV4) || !strings.Contains(out, "web/web")) {
			err = fmt.Errorf("flows do not have web/web's denials: %s", out)
		}
		return err
	}))
}
