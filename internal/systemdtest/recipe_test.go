// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"net/netip"
	"os"
	"path/filepath"
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
