// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"

	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// specs makes the official type of each kind's spec.
var specs = map[string]func() proto.Message{
	"ServiceEntry":        func() proto.Message { return &networking.ServiceEntry{} },
	"VirtualService":      func() proto.Message { return &networking.VirtualService{} },
	"Gateway":             func() proto.Message { return &networking.Gateway{} },
	"DestinationRule":     func() proto.Message { return &networking.DestinationRule{} },
	"Sidecar":             func() proto.Message { return &networking.Sidecar{} },
	"WorkloadEntry":       func() proto.Message { return &networking.WorkloadEntry{} },
	"AuthorizationPolicy": func() proto.Message { return &security.AuthorizationPolicy{} },
}

// rewritten returns the documents with every spec of Istio's as the official
// encoder writes what was read; false when there is none.
func rewritten(data []byte) ([]byte, bool) {
	var out bytes.Buffer
	some := false
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc map[string]any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out.Bytes(), some
		}
		if err != nil {
			return nil, false
		}
		version, _ := doc["apiVersion"].(string)
		kind, _ := doc["kind"].(string)
		if spec := specs[kind]; spec != nil && doc["spec"] != nil && strings.Contains(version, ".istio.io/") {
			text, err := yaml.Marshal(doc["spec"])
			if err != nil {
				return nil, false
			}
			p := &strictyaml.Reporter{Report: newReport(strictyaml.Types{})}
			nodes := strictyaml.Documents(strictyaml.Chunk{Text: text}, p)
			m := spec()
			if len(nodes) != 1 || !strictyaml.DecodeProto(nodes[0], m, "spec", p) || p.Report.Errors > 0 {
				return nil, false
			}
			b, err := protojson.Marshal(m)
			if err != nil {
				return nil, false
			}
			doc["spec"] = json.RawMessage(b)
			some = true
		}
		b, err := json.Marshal(doc)
		if err != nil {
			return nil, false // a key that is no string
		}
		out.WriteString("---\n")
		out.Write(b)
		out.WriteByte('\n')
	}
}

var positions = regexp.MustCompile(`f:\d+:\d+`)

// config dumps what is read from data, without the places in it.
func config(data []byte) (string, bool) {
	cfg, _ := Load([]File{{Name: "f", Data: data}}, Options{
		ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
	})
	if cfg == nil {
		return "", false
	}
	return positions.ReplaceAllString(render(cfg), "f"), true
}

// checkRoundTrip: what is accepted means the same after the official encoder
// has written it.
func checkRoundTrip(t *testing.T, data []byte) {
	t.Helper()
	want, ok := config(data)
	if !ok {
		return
	}
	again, ok := rewritten(data)
	if !ok {
		return
	}
	got, ok := config(again)
	if !ok {
		_, findings := Load([]File{{Name: "f", Data: again}}, Options{})
		t.Fatalf("what was accepted is refused when it is written again: %v\n%s", findings, again)
	}
	if got != want {
		t.Errorf("written again it means something else:\n%s\nwant:\n%s\nfrom:\n%s", got, want, again)
	}
}

func TestRoundTrip(t *testing.T) {
	n := 0
	for _, pattern := range []string{"testdata/valid/*.yaml", "../../examples/*/*.yaml"} {
		for _, name := range glob(t, pattern) {
			t.Run(filepath.Base(name), func(t *testing.T) {
				data, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := rewritten(data); ok {
					n++
				}
				checkRoundTrip(t, data)
			})
		}
	}
	if n < 10 {
		t.Errorf("only %d files could be written again", n)
	}
}

func FuzzRoundTrip(f *testing.F) {
	addDocuments(f, "testdata/valid/*.yaml", "../../examples/*/*.yaml")
	f.Fuzz(checkRoundTrip)
}
