// SPDX-License-Identifier: Apache-2.0

package istio

import "strings"

// hostileScopes are big inputs of the kinds that say to whom rules apply.
// hosts repeats an item with another host for each '#'.
func hostileScopes(hosts func(item string) string, size int) map[string]string {
	object := func(kind, spec string) string { return "apiVersion: " + kind + "\nmetadata: {name: a}\nspec:\n" + spec }
	lots := func(f func(i int) string) string {
		var b strings.Builder
		for i := 0; b.Len() < size/4; i++ {
			b.WriteString(f(i))
		}
		return b.String()
	}
	return map[string]string{
		"sidecar hosts": object("networking.istio.io/v1\nkind: Sidecar", "  egress:\n  - hosts:\n"+hosts("    - \"*/*.#z\"\n    - \"~*/#z\"\n")),
		"principals":    object("security.istio.io/v1\nkind: AuthorizationPolicy", "  rules:\n  - from:\n    - source:\n        principals:\n"+hosts("        - \"#*\"\n")),
		"cgroups":       object("egressd.dev/v1\nkind: Workload", "  cgroups:\n"+hosts("  - \"*#*/*a*a*a*a*#\"\n")),
		"config maps": lots(func(i int) string {
			return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio-" + strings.Repeat("a", i%200) + "b}\ndata:\n  mesh: |\n    {}\n"
		}),
		"mesh": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |\n" + hosts("    k#: 1\n"),
		"rules": object("networking.istio.io/v1\nkind: VirtualService", "  hosts: [a.b]\n  http:\n"+
			lots(func(i int) string {
				return "  - {match: [{uri: {prefix: /" + strings.Repeat("x", i%900) + "}}], redirect: {uri: /}}\n"
			})),
	}
}
