// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// bookinfoSecret makes a certificate as the example's README does, and returns its
// file and the Secret with it.
func bookinfoSecret(t *testing.T, dir, name string) (roots, secret string) {
	t.Helper()
	testenv.RequireTool(t, "openssl")
	cert, key := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	out, err := exec.CommandContext(t.Context(), "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
		"-subj", "/CN=bookinfo.example.com", "-addext", "subjectAltName=DNS:bookinfo.example.com", "-keyout", key, "-out", cert).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	text := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(data)
	}
	return cert, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: bookinfo-credential, namespace: default}\ndata: {tls.crt: %s, tls.key: %s}\n", text(cert), text(key))
}

// TestBookinfoExample: the seed's Gateway stands before the services of the example,
// with TLS and without; a new certificate counts at once, and one that is gone denies
// what came over TLS alone.
func TestBookinfoExample(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	services, err := testenv.Build(dir, "bookinfo", "../../examples/bookinfo")
	if err != nil {
		t.Fatal(err)
	}
	first, secret := bookinfoSecret(t, dir, "first")
	config := seed(t, "bookinfo-gateway.yaml")
	for _, name := range []string{"services.yaml", "tls.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../examples/bookinfo/policy", name))
		if err != nil {
			t.Fatal(err)
		}
		config[name] = string(text)
	}
	config["secret.yaml"] = secret
	n := prepare(t, config, nil, "--gateway-selector", "istio=ingressgateway", "--allow-endpoint", "127.0.0.1:9080")
	c := n.Node.Command(t.Context(), nil, services)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	over := func(node, roots string, args ...string) answer {
		return n.visit(t, append(args, "--cacert", roots, "--resolve", "bookinfo.example.com:443:"+node, "https://bookinfo.example.com/productpage")...)
	}
	whole := func(a answer) bool {
		return a.status == 200 && strings.Contains(a.body, "details: ") && strings.Contains(a.body, "reviews: ") && strings.Contains(a.body, "ratings: ")
	}
	nodes := []string{world.NodeV4, "[" + world.NodeV6 + "]"}
	eventually(t, soon, "the services answer", func() bool { return whole(n.visit(t, "http://"+nodes[0]+"/productpage")) })
	for _, node := range nodes {
		if a := n.visit(t, "http://"+node+"/productpage"); !whole(a) || !strings.Contains(a.body, " over http") {
			t.Errorf("%s: %+v", node, a)
		}
		for _, version := range []string{"--http1.1", "--http2"} {
			if a := over(node, first, version); !whole(a) || !strings.Contains(a.body, " over https") {
				t.Errorf("%s over TLS, %s: %+v", node, version, a)
			}
		}
		if a := over(node, first, "-H", "Host: other.example.com"); a.status != 421 {
			t.Errorf("%s for another host: %+v", node, a)
		}
	}
	if a := n.visit(t, "-k", "--resolve", "other.example.com:443:"+nodes[0], "https://other.example.com/productpage"); a.exit == 0 {
		t.Errorf("a name of no server: %+v", a)
	}
	n.event(t, "the name is denied", func(e flow.Event) bool {
		return e.Layer == flow.Ingress && e.Name == "other.example.com" && e.Reason == policy.ReasonName
	})
	second, secret := bookinfoSecret(t, dir, "second")
	n.write(t, "secret.yaml", secret)
	eventually(t, soon, "the new certificate is served", func() bool { return whole(over(nodes[0], second)) })
	if a := over(nodes[1], first); a.exit == 0 {
		t.Errorf("the old certificate is served: %+v", a)
	}
	n.write(t, "secret.yaml", "# gone\n")
	eventually(t, soon, "without a certificate there is no TLS", func() bool { return over(nodes[0], second).exit != 0 })
	n.event(t, "the connection is denied", func(e flow.Event) bool {
		return e.Layer == flow.Ingress && e.Reason == policy.ReasonCertificate && strings.Contains(e.Detail, "bookinfo-credential")
	})
	if a := n.visit(t, "http://"+nodes[1]+"/productpage"); !whole(a) {
		t.Errorf("plain HTTP beside it: %+v", a)
	}
}
