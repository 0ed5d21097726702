// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// TestPrometheus: a Prometheus scrapes the node, has Istio's metrics and egressd's own,
// and its rule for certificates that end soon fires for the Gateway's.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil, "--gateway-selector", "istio=ingressgateway", "--credentials-dir", "{dir}/certs")
	certs := n.newIssuer(t, filepath.Join(n.Dir(), "certs"))
	certs.issue(t, "gw", "gw.example.com", "2")
	n.write(t, "gateway.yaml", `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [gw.example.com], tls: {mode: SIMPLE, serverCertificate: `+certs.file("gw.crt")+`, privateKey: `+certs.file("gw.key")+`}}
`)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs+"/echo"); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	for what, text := range map[string]string{"certs": n.curl(t, nil, "http://127.0.0.1:15020/metrics").body, "status": n.egressd(t, "status", "-o", "json").stdout} {
		if !strings.Contains(text, certs.file("gw.crt")) || strings.Contains(text, "PRIVATE") {
			t.Errorf("%s does not name the certificate, or has a key", what)
		}
	}
	at := netip.MustParseAddrPort("127.0.0.1:9091")
	n.config(t, "rules.yml", `groups:
- name: certificates
  rules:
  - {alert: EndsSoon, expr: egressd_certificate_expiry_timestamp_seconds - time() < 14 * 86400}
`)
	n.serveIn(t, n.Node, at, "prometheus", "--web.listen-address="+at.String(), "--storage.tsdb.path="+filepath.Join(n.Dir(), "tsdb"), "--config.file="+n.config(t, "prometheus.yml", `global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [rules.yml]
scrape_configs:
- job_name: egressd
  static_configs: [{targets: ["127.0.0.1:15020"]}]
`))
	for _, query := range []string{
		"egressd_ready==1", `istio_requests_total{response_code="200"}>0`, `up{job="egressd"}==1`, `ALERTS{alertname="EndsSoon",alertstate="firing"}`,
	} {
		eventually(t, 6*soon, query, func() bool {
			a := n.curl(t, nil, "-G", "--data-urlencode", "query="+query, "http://"+at.String()+"/api/v1/query")
			return a.status == 200 && strings.Contains(a.body, `"value":[`)
		})
	}
}
