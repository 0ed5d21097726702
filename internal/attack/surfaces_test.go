// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"strings"

	"github.com/egressd/egressd/internal/world"
)

const byOwnPort = "connect(): the admin interface is for processes that are not captured"

// surfaceRows are attacks on what egressd itself serves and tells.
var surfaceRows = []row{
	{attack: "egressd's interfaces", how: "/flows at 127.0.0.1:15000, which --admin-address opens", want: "ECONNREFUSED", by: byOwnPort, do: ownPort("127.0.0.1", "15000", "/flows", "localhost:15000"), seen: has("20"), noTwin: "without egressd nobody is there"},
	{attack: "egressd's interfaces", how: "/config_dump at [::1]:15000 likewise", want: "ECONNREFUSED", by: byOwnPort, do: ownPort("::1", "15000", "/config_dump", "localhost:15000"), seen: has("20"), noTwin: "without egressd nobody is there"},
	{attack: "egressd's interfaces", how: "/flows at 127.0.0.1:15000 under a name of the attacker's (DNS rebinding)", want: "ECONNREFUSED", by: byOwnPort, do: ownPort("127.0.0.1", "15000", "/flows", "rebind.attacker.test:15000"), seen: has("20"), noTwin: "without egressd nobody is there"},
	{attack: "egressd's interfaces", how: "/unload at 127.0.0.1:15000, under its own name", want: "ECONNREFUSED", by: byOwnPort, do: ownPort("127.0.0.1", "15000", "/unload", "localhost:15000"), seen: has("20"), noTwin: "without egressd nobody is there"},
	{attack: "denials without end", how: "20,000 refused datagrams to one destination, after one to the stranger", want: "told", by: "the first of each kind is kept, more are counted", do: storm("one"), seen: is("hidden"), noTwin: "who is not captured is denied nothing"},
	{attack: "denials without end", how: "the same, to 20,000 destinations of each family", want: "told", by: "the first of each kind is kept, kinds are bounded", do: storm("many"), seen: is("hidden"), noTwin: "who is not captured is denied nothing"},
}

func ownPort(addr, port, path, host string) func(*arena, *world.Cgroup) string {
	method := "GET "
	if path == "/unload" {
		method = "POST "
	}
	return names("http", addr, port, method+path+` HTTP/1.1\r\nHost: `+host+`\r\n\r\n`)
}

// storm asks egressd whether it still tells of a denial after many others.
func storm(how string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		port := map[string]string{"one": "7001", "many": "7002"}[how]
		ways("connect", "{A4}", port)(a, cg)
		ways("storm", "20000", how)(a, cg)
		ctx, cancel := context.WithTimeout(a.t.Context(), clientTimeout)
		defer cancel()
		out, err := a.d.Command(ctx, "flows", "--verdict", "deny", "--state-dir", a.d.StateDir()).CombinedOutput()
		switch {
		case err != nil:
			return string(out)
		case strings.Contains(string(out), " "+world.StrangerV4+":"+port+" "):
			return "told"
		}
		return "hidden"
	}
}
