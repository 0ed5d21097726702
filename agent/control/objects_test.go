// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// server is what an API server has.
type server struct {
	files  []istio.File
	synced bool
}

func (s *server) Files() []istio.File { return s.files }
func (s *server) Synced() bool        { return s.synced }

func object(name, host string) istio.File {
	return istio.File{Name: "kubernetes:ServiceEntry/default/" + name, Data: []byte(strings.TrimPrefix(serviceEntry(name, host), "---\n"))}
}

// badObject cannot be read.
func badObject(name string) istio.File { return object(name, "999") }

// cluster is a daemon's Control with an API server and a base policy on disk.
type cluster struct {
	*Control
	t    *testing.T
	api  *server
	file string
	log  testenv.Buffer
}

func newCluster(t *testing.T, dir string, api *server) *cluster {
	c := &cluster{t: t, api: api, file: filepath.Join(dir, "base.yaml")}
	c.Control = New(Options{
		Config: []string{c.file}, LastGood: filepath.Join(dir, "state", "last-good.json"), Objects: api,
		Log: slog.New(slog.NewTextHandler(&c.log, nil)),
	})
	return c
}

// nothing is a part of the node that follows every policy.
type nothing struct{}

func (nothing) Tighten(policy.Change) error { return nil }
func (nothing) Loosen(policy.Change) error  { return nil }
func (nothing) Retire(policy.Change) error  { return nil }

// begin brings the first policy in force.
func (c *cluster) begin() {
	c.t.Helper()
	l, err := c.First(false)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.Start(l, Targets{
		Tables: nothing{}, Learned: nothing{}, Workloads: nothing{}, Epoch: func() error { return nil }, Recheck: func() {},
		Gateway: func(*policy.Snapshot) error { return nil },
	}); err != nil {
		c.t.Fatal(err)
	}
}

// expect says which hosts are open.
func (c *cluster) expect(what string, hosts map[string]bool) {
	c.t.Helper()
	for host, open := range hosts {
		if got := opens(c.Snapshot(), host); got != open {
			c.t.Errorf("%s: %s is open %t, want %t", what, host, got, open)
		}
	}
}

// TestObjects: objects and files count together; an object that is bad is left out alone,
// and files that are bad as a whole, while objects go on changing.
func TestObjects(t *testing.T) {
	dir := t.TempDir()
	c := newCluster(t, dir, &server{synced: true, files: []istio.File{object("a", "a.example.com"), object("b", "b.example.com")}})
	writeFile(t, c.file, serviceEntry("base", "base.example.com"))
	c.begin()
	c.expect("at first", map[string]bool{"base.example.com": true, "a.example.com": true, "b.example.com": true})

	c.api.files = []istio.File{badObject("a"), object("b", "b2.example.com")}
	c.ReloadObjects()
	c.ReloadObjects()
	c.expect("a bad object", map[string]bool{"base.example.com": true, "a.example.com": true, "b.example.com": false, "b2.example.com": true})
	p, findings := c.Report()
	if len(p.Refused) != 1 || !p.Refused[0].Older || p.Error != "" || p.Hash != c.Snapshot().Hash() || len(findings) == 0 {
		t.Errorf("the status with a bad object: %+v %v", p, findings)
	}
	if n := strings.Count(c.log.String(), "is left out"); n != 1 {
		t.Errorf("that an object is left out is said %d times:\n%s", n, c.log.String())
	}

	// What is being written on disk is not read because an object changes.
	writeFile(t, c.file, "kind: ServiceEntry\n")
	c.api.files = []istio.File{object("a", "a2.example.com")}
	c.ReloadObjects()
	c.expect("a file that is being written", map[string]bool{"base.example.com": true, "a2.example.com": true, "a.example.com": false})
	if p, _ := c.Report(); p.Error != "" || len(p.Refused) != 0 {
		t.Errorf("the file was read: %+v", p)
	}
	c.Reload()
	c.api.files = []istio.File{object("a", "a3.example.com")}
	c.ReloadObjects()
	c.expect("a bad file", map[string]bool{"base.example.com": true, "a3.example.com": true})
	if p, _ := c.Report(); !strings.Contains(p.Error, "base.yaml") {
		t.Errorf("the status with a bad file: %+v", p)
	}
	writeFile(t, c.file, "# nothing\n")
	c.Reload()
	c.expect("an empty file", map[string]bool{"base.example.com": true, "a3.example.com": true})
	if p, _ := c.Report(); !strings.Contains(p.Error, "no policy objects") {
		t.Errorf("the status with an empty file: %+v", p)
	}
	writeFile(t, c.file, serviceEntry("base", "base2.example.com"))
	c.Reload()
	c.expect("a good file", map[string]bool{"base.example.com": false, "base2.example.com": true, "a3.example.com": true})
	if p, _ := c.Report(); p.Error != "" {
		t.Errorf("the status with a good file: %+v", p)
	}
	// Nothing in the API is what somebody deleted there.
	c.api.files = nil
	c.ReloadObjects()
	c.expect("no objects", map[string]bool{"base2.example.com": true, "a3.example.com": false})
}

// TestObjectsStart: a start without an API server goes on with the objects of the last
// good policy, with the files on disk as they are now; where there is none it does
// not start. No Secret is on disk.
func TestObjectsStart(t *testing.T) {
	dir := t.TempDir()
	away := func() *server { return &server{files: []istio.File{object("half", "half.example.com")}} }
	c := newCluster(t, dir, away())
	writeFile(t, c.file, serviceEntry("base", "base.example.com"))
	if _, err := c.First(false); !errors.Is(err, ErrUnsynced) {
		t.Fatalf("a start without an API server and a last good policy: %v", err)
	}
	const key = "c2VjcmV0LW1hdGVyaWFs"
	c = newCluster(t, dir, &server{synced: true, files: []istio.File{
		{Name: "kubernetes:Secret/default/s", Data: []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{"tls.key":"` + key + `"}}`)},
		object("a", "a.example.com"), object("b", "b.example.com"),
	}})
	c.begin()
	c.SaveLastGood()
	saved, err := os.ReadFile(c.o.LastGood)
	if err != nil || strings.Contains(string(saved), "Secret") || strings.Contains(string(saved), key) {
		t.Fatalf("the last good policy has a Secret: %v", err)
	}

	writeFile(t, c.file, serviceEntry("base", "base2.example.com"))
	c = newCluster(t, dir, away())
	if _, err := c.First(true); err == nil {
		t.Error("a daemon takes over without knowing the objects")
	}
	c = newCluster(t, dir, away())
	c.begin()
	c.expect("the API server is away", map[string]bool{"a.example.com": true, "half.example.com": false, "base2.example.com": true, "base.example.com": false})
	writeFile(t, c.file, serviceEntry("base", "base3.example.com"))
	c.Reload()
	c.expect("it is still away", map[string]bool{"a.example.com": true, "half.example.com": false, "base3.example.com": true})
	c.api.files, c.api.synced = []istio.File{badObject("a"), object("c", "c.example.com")}, true
	c.ReloadObjects()
	c.expect("it is back", map[string]bool{"a.example.com": true, "b.example.com": false, "c.example.com": true, "base3.example.com": true})
	c.SaveLastGood()

	// The last good version of an object outlives the daemon, also one that is taken over.
	for _, fresh := range []bool{false, true} {
		c = newCluster(t, dir, &server{synced: true, files: []istio.File{badObject("a")}})
		if l, err := c.First(fresh); err != nil || !opens(l.Snapshot, "a.example.com") || opens(l.Snapshot, "c.example.com") {
			t.Errorf("taking over %t: a bad object's last good version is not in force: %v", fresh, err)
		}
	}
	// Files on disk that are broken at a start are those that were good.
	writeFile(t, c.file, "kind: ServiceEntry\n")
	c = newCluster(t, dir, &server{synced: true, files: []istio.File{object("d", "d.example.com")}})
	c.begin()
	c.expect("a broken file", map[string]bool{"base3.example.com": true, "d.example.com": true, "c.example.com": false})
}
