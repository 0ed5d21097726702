// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAllowEndpoint: check names the flag that is missing, and with it neither
// check nor explain has anything against the endpoint.
func TestAllowEndpoint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "local.yaml")
	policy := `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: local}
spec:
  hosts: [local.example]
  addresses: [240.0.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: "unix:///run/app.sock"}]
`
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	const flag = "--allow-endpoint unix:///run/app.sock"
	if o := call(t, "check", file); o.code != exitGood || !strings.Contains(o.stdout, "warning: ") || !strings.Contains(o.stdout, flag) {
		t.Errorf("%+v", o)
	}
	if o := call(t, "explain", "--config", file, "http://local.example/"); o.code != exitFinding || !strings.Contains(o.stdout, "endpoint-not-allowed") || !strings.Contains(o.stdout, flag) {
		t.Errorf("%+v", o)
	}
	allow := strings.Fields(flag)
	if o := call(t, append([]string{"check", file}, allow...)...); o.code != exitGood || o.stdout != "" {
		t.Errorf("%+v", o)
	}
	if o := call(t, append([]string{"explain", "--config", file, "http://local.example/"}, allow...)...); o.code != exitGood {
		t.Errorf("%+v", o)
	}
	for _, command := range [][]string{{"check", file}, {"explain", "--config", file, "local.example:80"}, {"run", "--config", file}, {"exec", "--config", file}} {
		args, code := append(command, "--allow-endpoint", "localhost:80"), exitUsage
		if command[0] == "exec" {
			args, code = append(args, "--", "true"), exitExec
		}
		if o := call(t, args...); o.code != code || !strings.Contains(o.stderr, `--allow-endpoint: "localhost:80"`) {
			t.Errorf("%v: %+v", command, o)
		}
	}
}
