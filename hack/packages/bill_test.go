// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestBill: each module of the program is in the list, with a hash.
func TestBill(t *testing.T) {
	f, err := os.Open(filepath.Join(made, "egressd-0.1.0-linux-"+runtime.GOARCH+".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b cdx.BOM
	if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&b); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, c := range *b.Components {
		listed[c.Name+" "+c.Version] = c.Hashes != nil
	}
	if len(listed) < 10 || b.Metadata.Component.Version != version {
		t.Errorf("%d modules of %s", len(listed), b.Metadata.Component.Version)
	}
	for line := range strings.Lines(output(t, "go", "version", "-m", built)) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "dep" && !listed[f[1]+" "+f[2]] {
			t.Errorf("%s is not listed with a hash", f[1])
		}
	}
}

// billSchema is CycloneDX's for JSON, with the two that it names, from its Go module.
func billSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	const published = "http://cyclonedx.org/schema/"
	dir := filepath.Join(strings.TrimSpace(output(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go")), "schema")
	c := jsonschema.NewCompiler() // loads nothing from the network
	c.AssertFormat()
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err == nil {
			err = c.AddResource(published+name, schema)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile(published + "bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestBillSchema: the lists are what CycloneDX's schema says, which finds mistakes.
func TestBillSchema(t *testing.T) {
	schema := billSchema(t)
	validate := func(text string) error {
		list, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(list)
	}
	lists, err := filepath.Glob(filepath.Join(made, "*.cdx.json"))
	if err != nil || len(lists) != 2 {
		t.Fatalf("%q, %v", lists, err)
	}
	for _, path := range lists {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(string(text)); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
		for old, mistake := range map[string]string{
			`"type": "library"`: `"type": "module"`, `"alg": "SHA-256"`: `"alg": "SHA-255"`, `"timestamp": "`: `"timestamp": "on `, `"bomFormat"`: `"format"`,
		} {
			if wrong := strings.Replace(string(text), old, mistake, 1); wrong == string(text) || validate(wrong) == nil {
				t.Errorf("%s: %s is right, too", filepath.Base(path), mistake)
			}
		}
	}
}
