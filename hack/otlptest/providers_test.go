// SPDX-License-Identifier: Apache-2.0

package otlptest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// ownProviders is a MeshConfig whose providers have collectors of their own: lines go to
// the first address, spans to the second one.
const ownProviders = `apiVersion: egressd.dev/v1
kind: MeshConfig
metadata: {name: mesh}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  extensionProviders:
  - name: lines
    envoyOtelAls: {service: %q, port: 4317, logFormat: {text: "own line of %%REQ(:PATH)%% %%RESPONSE_CODE%%"}}
  - name: spans
    opentelemetry: {service: %q, port: 4318}
  defaultConfig: {tracing: {sampling: 100}}
  defaultProviders: {accessLogging: [lines], tracing: [spans]}
`

// TestProvidersOwnCollectors: lines and spans come to the service and port that their
// providers have in the MeshConfig, over IPv4 and IPv6, without any flag, and to no other
// collector; of what is denied too.
func TestProvidersOwnCollectors(t *testing.T) {
	w := require(t)
	lines, spans := receive(t), receive(t)
	lead(t, w, netip.AddrPortFrom(netip.MustParseAddr(world.StrangerV4), 4317).String(), lines.grpc)
	lead(t, w, netip.AddrPortFrom(netip.MustParseAddr(world.StrangerV6), 4318).String(), spans.grpc)
	mesh := fmt.Sprintf(ownProviders, world.StrangerV4, world.StrangerV6)
	n := startWith(t, w, map[string][]byte{"mesh.yaml": []byte(mesh)})
	n.curl("200", "http://"+world.GoogleAPIs+"/mine")
	n.curl("502", "-H", "Host: evil.example", "http://"+world.GoogleAPIs+"/denied")
	has(t, lines.bodies, "egressd own line of /mine 200")
	has(t, lines.bodies, "egressd own line of /denied 502")
	has(t, spans.spans, "egressd ", "url.path=/mine", "http.response.status_code=200")
	has(t, spans.spans, "egressd ", "url.path=/denied", "egressd.verdict=deny")
	if others := append(lines.spans(), spans.bodies()...); len(others) > 0 {
		t.Errorf("the other one's collector has:\n%s", strings.Join(others, "\n"))
	}
}
