// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/foreign"
)

// TestKeeper: a line is written for what changes, not for each look, and it says
// what is open and what to do.
func TestKeeper(t *testing.T) {
	var log bytes.Buffer
	k := NewKeeper(slog.New(slog.NewTextHandler(&log, nil)))
	gone := errors.New("gone")
	hook := func(name string, err error) loader.Loss {
		return loader.Loss{Kind: loader.HookFault, What: name, Err: err}
	}
	pin := loader.Loss{Kind: loader.PinFault, What: "link_egd_bind4", Err: gone}
	for _, step := range []struct {
		what     string
		faults   []loader.Loss
		lines    []string // each line must have its words, parted by "|"
		rehooked bool
		holds    bool
		failures uint64 // of hooks
	}{
		{what: "nothing", holds: true},
		{what: "repaired", faults: []loader.Loss{hook("egd_connect4", nil), hook("egd_connect6", nil)},
			lines: []string{"level=WARN|egd_connect4, egd_connect6|may connect to any address"}, rehooked: true, holds: true},
		{what: "fails", faults: []loader.Loss{hook("egd_connect4", gone)},
			lines: []string{"level=ERROR|egd_connect4|may connect to any address|restart egressd|gone"}, failures: 1},
		{what: "fails still", faults: []loader.Loss{hook("egd_connect4", gone)}, failures: 1},
		{what: "fails otherwise", faults: []loader.Loss{hook("egd_connect4", errors.New("refused"))},
			lines: []string{"level=ERROR|refused"}, failures: 1},
		{what: "and a pin", faults: []loader.Loss{hook("egd_connect4", errors.New("refused")), pin},
			lines: []string{"level=ERROR|link_egd_bind4|killed all traffic is open"}, failures: 1},
		{what: "the pin alone", faults: []loader.Loss{pin}},
		{what: "all well", lines: []string{"level=INFO|in place in the kernel again"}, holds: true},
		{what: "and stays so", holds: true},
	} {
		log.Reset()
		if got := k.Saw(step.faults); got != step.rehooked {
			t.Errorf("%s: put back at a hook: %v", step.what, got)
		}
		lines := strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
		if log.Len() == 0 {
			lines = nil
		}
		if len(lines) != len(step.lines) {
			t.Errorf("%s: %d lines:\n%s", step.what, len(lines), log.String())
			continue
		}
		for i, words := range step.lines {
			for _, word := range strings.Split(words, "|") {
				if !strings.Contains(lines[i], word) {
					t.Errorf("%s: %q is not in %s", step.what, word, lines[i])
				}
			}
		}
		if (k.Err() == nil) != step.holds {
			t.Errorf("%s: %v", step.what, k.Err())
		}
		if failures, _ := k.Counts(); failures[loader.HookFault] != step.failures {
			t.Errorf("%s: %v", step.what, failures)
		}
	}
	if _, repairs := k.Counts(); repairs[loader.HookFault] != 2 || repairs[loader.PinFault] != 0 {
		t.Errorf("repairs: %v", repairs)
	}
}

// TestForeignWarnings: who may change destinations is warned about once, while he is
// there, and with what it means; others are only listed.
func TestForeignWarnings(t *testing.T) {
	var log bytes.Buffer
	k := NewKeeper(slog.New(slog.NewTextHandler(&log, nil)))
	behind := foreign.Program{Hook: "connect4", ID: 7, Name: "lb", Cgroup: "/c"}
	before := foreign.Program{Hook: "sendmsg6", ID: 8, Name: "lb", Cgroup: "/c", Before: true}
	for _, p := range []foreign.Program{
		{Hook: "egress", ID: 9, Name: "sd_fw_egress"}, {Hook: "connect4", ID: 10, Name: "egd_connect4"},
	} {
		k.SawForeign([]foreign.Program{p})
	}
	if log.Len() > 0 {
		t.Errorf("who changes no destination: %s", log.String())
	}
	for range 2 {
		k.SawForeign([]foreign.Program{behind, before})
	}
	if got := strings.Count(log.String(), "level=WARN"); got != 2 ||
		!strings.Contains(log.String(), "bpftool cgroup detach /c connect4 id 7") ||
		!strings.Contains(log.String(), "is refused") || !strings.Contains(log.String(), "decides about the address that this program writes") {
		t.Errorf("%d warnings:\n%s", got, log.String())
	}
	if got := k.State().Foreign; len(got) != 2 {
		t.Errorf("listed: %v", got)
	}
	k.SawForeign(nil)
	k.SawForeign([]foreign.Program{behind})
	if got := strings.Count(log.String(), "level=WARN"); got != 3 {
		t.Errorf("one that is back: %d warnings", got)
	}
}
