// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

func serviceEntry(name, host string) string {
	return fmt.Sprintf("---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: %s}, spec: {hosts: [%s], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}}\n", name, host)
}

// unrouted is a VirtualService for a host that nothing declares.
const unrouted = "---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v}, spec: {hosts: [nobody.example.com], http: [{directResponse: {status: 200}}]}}\n"

// opens says whether the default policy allows a host.
func opens(s *policy.Snapshot, host string) bool {
	return s.Policy(policy.DefaultPolicy).DecideQuery(host).Verdict != policy.Deny
}

// TestConfiguration: each load has what changed, and is what load.Paths says;
// an error leaves the next one as it would have been.
func TestConfiguration(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	writeFile(t, a, serviceEntry("a", "a.example.com"))
	c := newConfiguration(Options{Config: []string{dir}})
	var was *policy.Snapshot
	for _, step := range []struct {
		file, text string
		err        error
		open, shut string
	}{
		{b, serviceEntry("b", "b.example.com"), nil, "b.example.com", "c.example.com"},
		{b, serviceEntry("b", "c.example.com"), nil, "c.example.com", "b.example.com"},
		{b, "kind: ServiceEntry\n", load.ErrPolicy, "", ""},
		{b, serviceEntry("b", "c.example.com") + serviceEntry("b", "c.example.com"), load.ErrPolicy, "", ""},
		{b, serviceEntry("b", "d.example.com") + unrouted, nil, "d.example.com", "c.example.com"},
	} {
		writeFile(t, step.file, step.text)
		l, err := c.load(was)
		want, wantErr := load.Paths([]string{dir}, nil)
		if !errors.Is(err, step.err) || !errors.Is(wantErr, step.err) {
			t.Fatalf("%s: %v and %v, want %v", step.text, err, wantErr, step.err)
		}
		if found := append(l.Findings, c.reader.Analyze()...); !slices.Equal(found, want.Findings) {
			t.Errorf("%s: findings %v, want %v", step.text, found, want.Findings)
		}
		if err != nil {
			continue
		}
		if l.Snapshot.Hash() != want.Snapshot.Hash() || l.Services != want.Services || l.VirtualServices != want.VirtualServices {
			t.Errorf("%s: %+v, want %+v", step.text, l, want)
		}
		if !opens(l.Snapshot, step.open) || !opens(l.Snapshot, "a.example.com") || opens(l.Snapshot, step.shut) {
			t.Errorf("%s: a.example.com and %s must be open, %s not", step.text, step.open, step.shut)
		}
		was = l.Snapshot
	}
}

// TestSettle: the first policy is saved at once; later ones are analyzed and
// saved when no further change comes.
func TestSettle(t *testing.T) {
	dir := t.TempDir()
	file, saved := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "state", "last-good.json")
	var log testenv.Buffer
	a := New(Options{Config: []string{file}, LastGood: saved, Log: slog.New(slog.NewTextHandler(&log, nil))})
	writeFile(t, file, serviceEntry("a", "first.example.com"))
	if _, err := a.First(false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { a.Settle(ctx) })
	has := func(host string) bool {
		g, err := readLastGood(saved, a.o)
		return err == nil && g != nil && strings.Contains(string(g.Files[0].Data), host)
	}
	testenv.Until(t, "the first policy is saved", func() bool { return has("first.example.com") })

	start := time.Now()
	change := func(host string) {
		writeFile(t, file, serviceEntry("a", host)+unrouted)
		a.config.mu.Lock()
		defer a.config.mu.Unlock()
		l, err := a.config.load(nil)
		if err != nil {
			t.Fatal(err)
		}
		a.report.loaded(l, nil, time.Now())
		a.config.later(l, true)
	}
	change("second.example.com")
	change("third.example.com")
	testenv.Until(t, "the third policy is saved", func() bool { return has("third.example.com") })
	if took := time.Since(start); took < debounce {
		t.Errorf("saved after %v, want no earlier than %v", took, debounce)
	}
	if n := strings.Count(log.String(), "declares the host nobody.example.com"); n != 1 {
		t.Errorf("warned %d times about nobody.example.com, want once:\n%s", n, log.String())
	}
	if f := a.report.findings; len(f) != 1 || f[0].Severity != istio.Warning {
		t.Errorf("findings in the status: %v, want one warning", f)
	}

	// The end does not wait.
	change("fourth.example.com")
	cancel()
	running.Wait()
	a.SaveLastGood()
	if !has("fourth.example.com") {
		t.Error("the last policy was not saved at the end")
	}
}
