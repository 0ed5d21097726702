// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/explain"
)

// explained are the arguments of explain, each with whether the policy allows.
var explained = []struct {
	args    string
	allowed bool
}{
	// What a client of the scheme sends first decides.
	{"http://web.example.com/", true},
	{"ws://web.example.com/chat", true},
	{"https://web.example.com/", true},
	{"wss://web.example.com/chat", true},
	{"http://web.example.com:8081/", true},
	{"https://web.example.com:8081/", false},
	{"https://web.example.com:9443/", true},
	{"http://web.example.com:9443/", false},
	{"ssh://web.example.com:443", false},
	{"http://web.example.com:9000/", true},
	{"https://web.example.com:9000/", true},
	{"web.example.com:9000", true},
	{"postgres://stores.example.com/orders", true},
	{"jdbc:postgresql://stores.example.com/orders", true},
	{"mysql://stores.example.com/", false},
	{"redis://stores.example.com", true},
	{"rediss://stores.example.com", true},
	{"ldaps://stores.example.com", true},
	{"ldap://stores.example.com:636", false},
	{"grpc://stores.example.com:50051", true},
	{"stores.example.com:5432", true},
	// What would allow it has the protocol of the scheme, or of the port.
	{"git://code.example.org/x", false},
	{"ssh://git@code.example.org/x", false},
	{"mongodb://code.example.org/x", false},
	{"amqp://code.example.org", false},
	{"amqps://code.example.org", false},
	{"ldap://code.example.org", false},
	{"rediss://code.example.org", false},
	{"grpc://code.example.org:50051", false},
	{"wss://code.example.org/", false},
	{"ws://code.example.org/", false},
	{"http://code.example.org:3000/", false},
	{"https://code.example.org:3000/", false},
	{"code.example.org:443", false},
	{"code.example.org:80", false},
	{"code.example.org:5432", false},
	{"code.example.org:636", false},
	{"code.example.org:443/udp", false},
	// Names that are nearly allowed.
	{"https://wild.example/", false},
	{"https://www.wild.example/", true},
	{"http://www.wild.example/", false},
	{"https://wbe.example.com/", false},
	{"web.example.com:8443", false},
	{"web.example.com:443/udp", false},
	{"https://inside.example.com/", false},
	{"--workload shop https://inside.example.com/", true},
	// Ports that are the node's own business.
	{"8.8.8.8:53", true},
	{"[2001:db8::53]:53/udp", true},
	{"web.example.com:53/udp", true},
	{"dns.example.org:53", false},
	{"127.0.0.53:53/udp", true},
	{"http://localhost:8080/", true},
	{"[::1]:5432", true},
	{"127.0.0.1:15001", false},
	// Addresses.
	{"ssh://192.0.2.7", true},
	{"ssh://[2001:db8:2::7]", true},
	{"https://192.0.2.7/", false},
	{"http://192.0.2.7/", true},
	{"http://203.0.113.9/", false},
	{"[2001:db8:9::9]:443/udp", false},
	// Modes.
	{"--mode audit https://code.example.org/", false},
	{"--mode off https://code.example.org/", false},
	{"--mode audit https://web.example.com/", true},
	{"--workload learner https://code.example.org/", false},
	{"--workload free https://code.example.org/", false},
	{"--workload shop --mode audit https://code.example.org/", false},
}

// TestExplainTable: the whole output is as it was read and found right, the
// exit code says what the policy does, and what would allow a target does.
func TestExplainTable(t *testing.T) {
	base := filepath.Join("testdata", "explain.yaml")
	policy, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, tt := range explained {
		args := strings.Fields(tt.args)
		o := call(t, append([]string{"explain", "--config", base}, args...)...)
		if (o.code == exitGood) != tt.allowed || o.code > exitFinding || o.stderr != "" {
			t.Errorf("%s: %+v, want allowed: %t", tt.args, o, tt.allowed)
		}
		fmt.Fprintf(&all, "$ egressd explain %s\n%s\n", tt.args, o.stdout)
		var x explain.Explanation
		o = call(t, append([]string{"explain", "--config", base, "-o", "json"}, args...)...)
		if err := json.Unmarshal([]byte(o.stdout), &x); err != nil {
			t.Fatal(err)
		}
		if x.Suggestion == "" {
			continue
		}
		path := filepath.Join(t.TempDir(), "allowed.yaml")
		if err := os.WriteFile(path, []byte(apply(string(policy), x.Suggestion)), 0o600); err != nil {
			t.Fatal(err)
		}
		if o := call(t, append([]string{"explain", "--config", path}, args...)...); o.code != exitGood {
			t.Errorf("%s: the suggestion does not allow it:\n%s\n%+v", tt.args, x.Suggestion, o)
		}
	}
	golden(t, "explain-table", all.String())
}

// apply does what a suggestion says to a policy.
func apply(policy, suggestion string) string {
	if !strings.HasPrefix(suggestion, "#") {
		return policy + "---\n" + suggestion
	}
	head, ports, _ := strings.Cut(suggestion, "\n")
	name := strings.Split(strings.Fields(head)[6], "/")[1]
	at := strings.Index(policy, "{name: "+name+"}")
	at += strings.Index(policy[at:], "  ports:\n") + len("  ports:\n")
	return policy[:at] + ports + policy[at:]
}
