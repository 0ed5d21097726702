// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/policy/istio"
)

// TestLastGoodFile: what was written is read again by the same options, and
// by no others; a file that was changed or made by another version is refused.
func TestLastGoodFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "last-good.json")
	o := Options{Config: []string{"/etc/egressd"}, GatewaySelector: map[string]string{"istio": "gw"}}
	g := lastGood{Format: lastGoodFormat, Config: absolute(o.Config), GatewaySelector: o.GatewaySelector,
		Files: []istio.File{{Name: "a.yaml", Data: []byte("kind: ServiceEntry\xff\n")}}}
	if got, err := readLastGood(path, o); got != nil || err != nil {
		t.Fatalf("no file: %v, %v", got, err)
	}
	if err := g.write(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v; want mode 600", info, err)
	}
	got, err := readLastGood(path, o)
	if err != nil || got == nil || !bytes.Equal(got.Files[0].Data, g.Files[0].Data) || got.Files[0].Name != "a.yaml" {
		t.Fatalf("read %+v, %v", got, err)
	}
	for _, other := range []Options{
		{Config: []string{"/etc/other"}, GatewaySelector: o.GatewaySelector},
		{Config: o.Config},
	} {
		if got, err := readLastGood(path, other); got != nil || err != nil {
			t.Errorf("options %v: %v, %v; want nothing", other, got, err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][]byte{
		"cut off":        data[:len(data)/2],
		"another name":   bytes.Replace(data, []byte("a.yaml"), []byte("b.yaml"), 1),
		"another format": bytes.Replace(data, []byte(`"format":1`), []byte(`"format":2`), 1),
	} {
		if err := os.WriteFile(path, change, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readLastGood(path, o); got != nil || err == nil {
			t.Errorf("%s: %v, %v; want an error", name, got, err)
		}
	}
}

// TestLastGoodEncode: files are written one by one, and as if all at once.
func TestLastGoodEncode(t *testing.T) {
	one, two := istio.File{Name: `a"null,"sum":".yaml`, Data: []byte("\x00\xff")}, istio.File{Name: "b", Data: []byte{}}
	for _, files := range [][]istio.File{nil, {}, {one}, {one, two, {Name: "c"}}} {
		g := lastGood{Format: lastGoodFormat, Config: []string{`null,"sum":`}, Files: files, Sum: "abc"}
		want, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := g.encode(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d files: %s, %v; want %s", len(files), got.Bytes(), err, want)
		}
	}
}
