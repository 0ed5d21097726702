// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/internal/world"
)

// With journald, to which egressd.service writes its log by standard error and its flow
// log as --flow-log says.

// journalUnits are systemd's own, without what a machine for tests does not have.
var journalUnits = map[string]string{
	"systemd-journald.socket": `[Unit]
DefaultDependencies=no
[Socket]
ListenDatagram=/run/systemd/journal/socket
ListenStream=/run/systemd/journal/stdout
PassCredentials=yes
Service=systemd-journald.service
`,
	"systemd-journald-dev-log.socket": `[Unit]
DefaultDependencies=no
[Socket]
ListenDatagram=/run/systemd/journal/dev-log
PassCredentials=yes
Symlinks=/dev/log
Service=systemd-journald.service
`,
	"systemd-journald.service": `[Unit]
DefaultDependencies=no
Requires=systemd-journald.socket systemd-journald-dev-log.socket
After=systemd-journald.socket systemd-journald-dev-log.socket
[Service]
Type=notify
ExecStart=/lib/systemd/systemd-journald
Sockets=systemd-journald.socket systemd-journald-dev-log.socket
RuntimeDirectory=systemd/journal
RuntimeDirectoryPreserve=yes
FileDescriptorStoreMax=4224
StandardOutput=null
[Install]
WantedBy=multi-user.target
`,
}

// flowIdentifier is by whom flows are.
const flowIdentifier = "egressd-flow"

// journalMachine has a journal, and has started egressd.
func journalMachine(t *testing.T) *Machine {
	t.Helper()
	m := machine(t)
	m.allow(t, "googleapis", world.GoogleAPIs)
	for name, text := range journalUnits {
		must(t, m.Unit(name, text))
	}
	must(t,
		m.Write("systemd/journald.conf", "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\nRateLimitBurst=0\n"),
		m.Write("default/egressd", "EGRESSD_OPTS=\"--flow-log journald --flow-log syslog\"\n"),
		m.Install(unit, "StandardOutput=journal", "StandardError=journal"),
		m.Boot("systemd-journald.service"))
	m.systemctl(t, "start", unit)
	must(t, m.Is(soon, unit, "ActiveState", "active"))
	return m
}

// journalEntry is one of the journal: the texts of its fields. A field that is there twice, or is
// no text, is an error.
type journalEntry map[string]string

// journal asks journalctl.
func (m *Machine) journal(t *testing.T, args ...string) (all []journalEntry) {
	t.Helper()
	_, err := m.Run("journalctl", "--sync")
	must(t, err)
	out, err := m.Run(append([]string{"journalctl", "--no-pager", "--all", "-o", "json"}, args...)...)
	must(t, err)
	for line := range strings.Lines(out) {
		var e journalEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// TestJournal: the journal has flows with their fields, which nobody forges by a name, and
// egressd's own lines by their priorities, without a time of their own. Nothing is an error
// but what is one.
func TestJournal(t *testing.T) {
	m := journalMachine(t)
	must(t, m.get(t, allowed))
	// A process whose name would be a field, or a line, of its own.
	const forger = "x\nPRIORITY=0"
	program := filepath.Join(m.Dir, "bin", forger)
	must(t, os.Link(filepath.Join(m.Dir, "bin/tool"), program))
	if out, err := m.program(t.Context(), "user.slice/get", program, "get", "-close", "http://"+world.Stranger+"/").CombinedOutput(); err == nil {
		t.Errorf("what the policy does not name is allowed: %s", out)
	}
	m.flows(t, forger)

	must(t, m.Write("egressd/broken.yaml", "kind: ["))
	if _, err := m.Systemctl("reload", unit); err == nil {
		t.Error("a policy with a mistake is reloaded")
	}
	m.own(t)
}

// flows looks at the flow log, which comes by the journal's own protocol and by /dev/log.
func (m *Machine) flows(t *testing.T, command string) {
	t.Helper()
	count := map[string]int{}
	must(t, m.await(soon, func() error {
		clear(count)
		for _, e := range m.journal(t, "SYSLOG_IDENTIFIER="+flowIdentifier) {
			f, err := flowrecord.Parse([]byte(e["MESSAGE"] + "\n"))
			if err != nil {
				return fmt.Errorf("%w: %v", err, e)
			}
			if f.Process.Command != command || f.Allowed {
				continue
			}
			by := e["_TRANSPORT"]
			count[by]++
			if e["PRIORITY"] != "4" || e["_SYSTEMD_UNIT"] != unit {
				t.Errorf("a denial by %s: %v", by, e)
			}
			if by == "journal" && (e["EGRESSD_COMMAND"] != command || e["EGRESSD_ALLOWED"] != "false" || e["EGRESSD_VERDICT"] != "deny" || e["EGRESSD_REASON"] != string(f.Reason) || e["EGRESSD_HOST"] != f.Name || e["EGRESSD_KIND"] != string(f.Kind)) {
				t.Errorf("its fields: %v", e)
			}
			if by == "syslog" && e["SYSLOG_FACILITY"] != "3" {
				t.Errorf("its facility: %v", e)
			}
		}
		if count["journal"] == 0 || count["syslog"] != count["journal"] {
			return fmt.Errorf("denials by way: %v", count)
		}
		return nil
	}))
	found := m.journal(t, "EGRESSD_ALLOWED=false")
	if len(found) == 0 || slices.ContainsFunc(found, func(e journalEntry) bool { return e["EGRESSD_ALLOWED"] != "false" }) {
		t.Errorf("by a field: %v", found)
	}
}

// own looks at egressd's log, after a failed reload.
func (m *Machine) own(t *testing.T) {
	t.Helper()
	priorities := map[string]int{}
	for _, e := range m.journal(t, "-u", unit, "_TRANSPORT=stdout") {
		priorities[e["PRIORITY"]]++
		text := e["MESSAGE"]
		if strings.Contains(text, "time=") || strings.Contains(text, "level=") || strings.HasPrefix(text, "<") {
			t.Errorf("a line with what the journal keeps: %q", text)
		}
	}
	if priorities["3"] == 0 || priorities["6"] == 0 {
		t.Errorf("lines by priority: %v", priorities)
	}
	errs := m.journal(t, "-u", unit, "-p", "err")
	var told bool
	for _, e := range errs {
		told = told || strings.Contains(e["MESSAGE"], "the policy was not reloaded")
		if e["PRIORITY"] != "3" || e["SYSLOG_IDENTIFIER"] == flowIdentifier {
			t.Errorf("no error: %v", e)
		}
	}
	if !told {
		t.Errorf("the errors do not say that the reload failed: %v", errs)
	}
}
