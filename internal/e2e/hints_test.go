// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// hint is what a denial says of how to allow it.
var hint = regexp.MustCompile(`(?m)^    allow: (.*)$`)

// TestHints: a command that fails under a policy passes when what its denials say is
// done, whatever they are for; and what no flag can allow says what to change.
func TestHints(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	entry := func(head, spec string) string {
		return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: entry" + head + "}\nspec: {hosts: [" + world.API + "], resolution: DNS" + spec + "}\n---\n"
	}
	const web = ", ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]"
	guard := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: reads}\nspec: {action: DENY, targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: entry}], rules: [{to: [{operation: {methods: [POST]}}]}]}\n"
	udp := func(family, host string, port int) string {
		return fmt.Sprintf(`python3 -c '
import socket
s = socket.socket(socket.%s, socket.SOCK_DGRAM)
s.settimeout(5)
at = socket.getaddrinfo("%s", %d, s.family, socket.SOCK_DGRAM)[0][4]
s.sendto(b"x", at)
assert s.recv(9)
'`, family, host, port)
	}
	b := newBench(t, hosts("unrelated", world.GoogleAPIs))
	fetch := func(url, more string) string { return b.fetch(url) + " -f -o /dev/null " + more }
	for name, c := range map[string]struct {
		policy, script string
		says           string // where no flag would help
	}{
		"name":                     {"", fetch("https://"+world.API+"/", "-4") + " && " + fetch("http://"+world.API+"/", "-6"), ""},
		"address, IPv4":            {"", fetch("http://"+world.StrangerV4+"/", ""), ""},
		"address, IPv6":            {"", fetch("http://["+world.StrangerV6+"]/", ""), ""},
		"port":                     {entry("", ", ports: [{number: 443, name: tls, protocol: TLS}]"), fetch("http://"+world.API+"/", ""), ""},
		"SNI at another's address": {entry("", web), fetch("https://"+world.API2+"/", ""), ""},
		"UDP by name":              {"", udp("AF_INET", world.API, 7), ""},
		"UDP by address":           {"", udp("AF_INET6", b.API.V6.String(), 7), ""},
		"transport":                {entry("", ", ports: [{number: 7, name: tcp, protocol: TCP}]"), udp("AF_INET", world.API, 7), ""},
		"visibility":               {entry(", namespace: other", ", exportTo: ['.']"+web), fetch("https://"+world.API+"/", ""), ""},
		"bytes that are no TLS":    {entry("", web), fetch("http://"+world.API+":443/", ""), "write protocol: TCP in ServiceEntry default/entry"},
		"method":                   {entry("", web) + guard, fetch("http://"+world.API+"/", "-X POST"), "AuthorizationPolicy default/reads denies it"},
	} {
		t.Run(name, func(t *testing.T) {
			b.policy(t, "case.yaml", c.policy)
			var flags []string
			for range 4 { // a name is denied before the port is known
				e := finish(t, b.command(t, flags, shell(c.script)...))
				if e.code == 0 {
					if len(flags) == 0 || c.says != "" {
						t.Errorf("passes with %q: %+v", flags, e)
					}
					return
				}
				all := hint.FindAllStringSubmatch(e.stderr, -1)
				before := len(flags)
				for _, m := range all {
					if c.says != "" && strings.Contains(m[1], c.says) {
						return
					}
					if item, ok := strings.CutPrefix(m[1], "--allow "); ok && !slices.Contains(flags, item) {
						flags = append(flags, "--allow", item)
					}
				}
				if len(flags) == before {
					t.Fatalf("with %q it is denied, and nothing new is said:\n%s", flags, e.stderr)
				}
			}
			t.Errorf("it never passes: %q", flags)
		})
	}
}
