// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// group is a part of the table.
type group struct {
	title string
	rows  []row
}

// table is all that is tried, in the order of the documentation.
func table() []group {
	return []group{
		{"Flows to an address that is not allowed", sockets},
		{"Packets that go elsewhere than their flow", slices.Concat(packets, foreignRows)},
		{"Pods and machines behind an interface", behind},
		{"Sockets, cgroups, namespaces and ports of others", slices.Concat(borrowed, execRows, surfaceRows)},
		{"Pods: other network namespaces", pods},
		{"TLS", tlsRows},
		{"HTTP", slices.Concat(httpRows, engineRows)},
		{"DNS questions", dnsRows},
		{"DNS answers and special addresses", answerRows},
		{"Policy of another author", authors},
		{"Visitors of a gateway", visitors},
		{"Time", timeRows()},
	}
}

// impossible are attacks of the catalogue that have no row, and why.
var impossible = []struct{ attack, why string }{
	{"gVisor, Kata and QEMU themselves", "a machine stands for them: a tap device with gVisor's network stack behind it"},
	{"hostNetwork pods, pod-start races, init containers", "needs Kubernetes; here a process is captured from its first instruction"},
	{"API server's proxy, open proxy pods, ExternalName, kubelet's port", "needs Kubernetes"},
	{"MPTCP's ADD_ADDR", "no MPTCP socket is made, so no server can name another address to it"},
	{"a stale address after its TTL", "an address is kept 60 s longer, which no test waits for; package dnsproxy tests it with a clock of its own"},
	{"a silent client or visitor, a header or a TLS handshake that comes byte by byte (slowloris), until the deadline", "takes the 10 s of the deadline; package forward tests it with a shorter one"},
	{"all connections that one workload may have", "half of the machine's limit of descriptors; package forward tests it with a small limit"},
	{"stalled requests, answers that nobody reads", "take the five minutes of the timeout; package forward tests them with a shorter one"},
	{"exfiltration to an allowed host", "another repository of an allowed site is the same name and, inside TLS, not seen"},
	{"bpftool, iptables, routes, TCP_REPAIR by root", "a process with CAP_BPF or CAP_NET_ADMIN owns the machine's network; take them away"},
	{"VSOCK, SMC, TIPC", "no peer on one machine; no hook sees the creation of other families"},
}

// timeRows are the rows of time_test.go.
func timeRows() []row {
	var rows []row
	for _, list := range [][]held{earlierRows, modeRows("audit"), modeRows("off"), tightRows} {
		for _, h := range list {
			rows = append(rows, h.row)
		}
	}
	rows = append(rows, killRow)
	return slices.Concat(rows, bindRows, []row{unloadRow}, anewRows)
}

const intro = `# Attacks

Ways out of a captured cgroup, each tried by a real process on every test run, twice: captured, where nothing may leave the node, and not captured, where it must succeed; where that cannot be, the row says why it has no such twin. What counts is not only what the attacker is told, but the packets on the wire, the connections and requests at the sites, and the questions at the DNS servers. The attacker is root with every capability, unless a row says otherwise.

` + "`make attack`" + ` makes all of them, prints this table with what happened on this machine, and writes this file from [the rows](../internal/attack).

**OPEN** is what egressd does not stop today; the tests see that it is open, so that closing it changes this page.
`

// render writes the documentation.
func render() string {
	var b strings.Builder
	b.WriteString(intro)
	count, open := 0, 0
	for _, g := range table() {
		fmt.Fprintf(&b, "\n## %s\n\n| attack | how | result | stopped by |\n|---|---|---|---|\n", g.title)
		for _, r := range g.rows {
			by := r.by
			result := r.result()
			if r.open {
				open++
				by, result = "nothing: "+by, "**OPEN**: "+r.want
			}
			if r.noTwin != "" {
				by += " (no twin: " + r.noTwin + ")"
			}
			count++
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", cell(r.attack), cell(r.how), cell(result), cell(by))
		}
	}
	b.WriteString("\n## Not tried here\n\n| attack | why |\n|---|---|\n")
	for _, i := range impossible {
		fmt.Fprintf(&b, "| %s | %s |\n", cell(i.attack), cell(i.why))
	}
	fmt.Fprintf(&b, "\n%d attacks, %d of them open.\n", count, open)
	return b.String()
}

// cell escapes what Markdown would read.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "*.", `\*.`, `\0`, `\\0`).Replace(s)
}

// TestDocs compares the documentation with the rows.
func TestDocs(t *testing.T) {
	const path = "../../docs/ATTACKS.md"
	want := render()
	if *writeDocs {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("needs docs/ATTACKS.md beside the tests: %v", err)
	}
	if string(got) != want {
		t.Error("docs/ATTACKS.md is not what the rows say: run make attack and commit it")
	}
}

// TestRows: no attack stands there twice, and each says all that the table needs.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range table() {
		for _, r := range g.rows {
			key := r.attack + "/" + r.how
			if seen[key] {
				t.Errorf("%s: twice", key)
			}
			seen[key] = true
			if r.attack == "" || r.how == "" || r.want == "" || r.by == "" {
				t.Errorf("%+v lacks something", r)
			}
		}
	}
}
