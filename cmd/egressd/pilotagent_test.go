// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// seedAgent is how Istio's egress gateway started pilot-agent.
const seedAgent = "proxy router --domain istio-system.svc.cluster.local --proxyLogLevel=warning --proxyComponentLogLevel=misc:error --log_output_level=default:info --drainDuration 45s --parentShutdownDuration 1m0s --connectTimeout 10s --serviceCluster istio-egressgateway --zipkinAddress zipkin.istio-system:9411 --proxyAdminPort 15000 --statusPort 15020 --controlPlaneAuthPolicy NONE --discoveryAddress istio-pilot.istio-system:15010 --trust-domain=cluster.local"

// TestPilotAgent: pilot-agent's command line starts nothing, and is answered flag by flag.
func TestPilotAgent(t *testing.T) {
	for _, c := range []struct{ args, run, says string }{
		{seedAgent, "egressd run --config /etc/egressd --gateway-selector istio=egressgateway --log-level info --drain-time 45s --trace-service istio-egressgateway --zipkin-address zipkin.istio-system:9411 --admin-address localhost:15000 --status-address localhost:15020\n",
			"  --trust-domain cluster.local: trustDomain of the MeshConfig"},
		{"proxy sidecar --log_as_json --proxyLogLevel=warning,misc:error --profiling --concurrency 2", "egressd run --config /etc/egressd --log-level warn --log-format json --admin-profile\n", "  --concurrency 2: the variable GOMAXPROCS"},
		{"proxy router --meshConfig", "egressd run --config /etc/egressd --gateway-selector istio=ingressgateway\n", "  --meshConfig: a file of --config"},
		{"proxy --log_output_level dns:debug,all:fatal --unheardOf=1 --drainDuration", "egressd run --config /etc/egressd --log-level error --drain-time \n", "  --unheardOf 1: pilot-agent has no such flag"},
		{"proxy --domain example.org", "egressd run --config /etc/egressd --cluster-cidr auto --cluster-domain example.org\n", "  --domain example.org: run --cluster-domain"},
	} {
		o := call(t, strings.Fields(c.args)...)
		if o.code != exitUsage || o.stdout != "" || !strings.Contains(o.stderr, "  "+c.run) || !strings.Contains(o.stderr, c.says) {
			t.Errorf("%s: %+v, want %s and %s", c.args, o, c.run, c.says)
		}
		for _, arg := range strings.Fields(c.args) {
			if name, _, _ := strings.Cut(arg, "="); strings.HasPrefix(name, "--") && !strings.Contains(o.stderr, "  "+name) {
				t.Errorf("%s: nothing is said of %s", c.args, name)
			}
		}
	}
	if o := call(t, "run", "--drainDuration", "45s"); o.code != exitUsage || !strings.Contains(o.stderr, "unknown flag: --drainDuration, which is pilot-agent's: run --drain-time\n") {
		t.Errorf("a flag of pilot-agent's: %+v", o)
	}
	if o := call(t, "run", "--nonsense"); !strings.Contains(o.stderr, "unknown flag: --nonsense\n") {
		t.Errorf("a flag of nobody's: %+v", o)
	}
}

// TestPilotAgentFlags: what the table names is there, and the page has all of it.
func TestPilotAgentFlags(t *testing.T) {
	page, err := os.ReadFile("../../docs/PILOT-AGENT.md")
	if err != nil {
		t.Fatal(err)
	}
	var run *cobra.Command
	for _, c := range root(env{}).Commands() {
		if c.Name() == runName {
			run = c
		}
	}
	seen := map[string]bool{}
	for _, f := range agentFlags {
		if seen[f.name] {
			t.Errorf("--%s is there twice", f.name)
		}
		seen[f.name] = true
		if f.flag != "" && run.Flags().Lookup(f.flag) == nil {
			t.Errorf("--%s: run has no --%s", f.name, f.flag)
		}
		if f.flag == "" && f.note == "" {
			t.Errorf("--%s: nothing is said of it", f.name)
		}
		if !strings.Contains(string(page), "`--"+f.name) {
			t.Errorf("docs/PILOT-AGENT.md has no `--%s`", f.name)
		}
	}
}
