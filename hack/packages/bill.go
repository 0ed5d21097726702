// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// bill writes what a binary is made of, as CycloneDX (1.6, JSON): the modules, with their
// versions and hashes, and the standard library, as Go wrote them into it.
func bill(binary, out, version string, at time.Time) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	product := cdx.Component{
		BOMRef: purl(info.Main.Path, version), PackageURL: purl(info.Main.Path, version),
		Type: cdx.ComponentTypeApplication, Name: "egressd", Version: version,
		Licenses: &cdx.Licenses{{Expression: "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"}},
		Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
	}
	components := []cdx.Component{{
		BOMRef: purl("std", info.GoVersion), PackageURL: purl("std", strings.TrimPrefix(info.GoVersion, "go")),
		Type: cdx.ComponentTypeLibrary, Name: "std", Version: info.GoVersion,
	}}
	for _, m := range info.Deps {
		c, err := component(m)
		if err != nil {
			return err
		}
		components = append(components, c)
	}
	needs := make([]string, len(components))
	for i, c := range components {
		needs[i] = c.BOMRef
	}
	b := cdx.NewBOM()
	b.Metadata = &cdx.Metadata{Timestamp: at.Format(time.RFC3339), Component: &product}
	b.Components = &components
	b.Dependencies = &[]cdx.Dependency{{Ref: product.BOMRef, Dependencies: &needs}}
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(b, cdx.SpecVersion1_6); err != nil {
		return err
	}
	return os.WriteFile(out, text.Bytes(), 0o644)
}

// component is a module that the program has in it.
func component(m *debug.Module) (cdx.Component, error) {
	m = cmp.Or(m.Replace, m)
	c := cdx.Component{
		BOMRef: purl(m.Path, m.Version), PackageURL: purl(m.Path, m.Version),
		Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version,
	}
	// As in go.sum: SHA-256 over the hashes of the module's files.
	hash, ok := strings.CutPrefix(m.Sum, "h1:")
	raw, err := base64.StdEncoding.DecodeString(hash)
	if !ok || err != nil {
		return c, fmt.Errorf("%s has the hash %q", m.Path, m.Sum)
	}
	c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(raw)}}
	return c, nil
}

// purl is a module's package URL.
func purl(path, version string) string { return "pkg:golang/" + path + "@" + version }

// sums writes the SHA-256 of files, as sha256sum -c reads it.
func sums(out string, files []string) error {
	var b bytes.Buffer
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(data), filepath.Base(path))
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}
