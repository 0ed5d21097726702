// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// pack makes a package, deb or rpm, as deploy/packages/nfpm.yaml describes it, and is
// its path.
func (r *release) pack(format, arch, binary, work string) (string, error) {
	text, err := os.ReadFile(filepath.Join(r.top, "deploy/packages/nfpm.yaml"))
	if err != nil {
		return "", err
	}
	variables := map[string]string{
		"ARCH": arch, "BINARY": binary, "OUT": work, "TOP": r.top,
		"PACKAGE_VERSION": packageVersion(r.version, r.at, r.newest()),
	}
	// nfpm itself does so in some fields alone.
	filled := os.Expand(string(text), func(name string) string { return variables[name] })
	config, err := nfpm.Parse(strings.NewReader(filled))
	if err != nil {
		return "", err
	}
	info, err := config.Get(format)
	if err != nil {
		return "", err
	}
	info = nfpm.WithDefaults(info)
	info.MTime = r.at
	for _, c := range info.Contents {
		if c.FileInfo != nil {
			c.FileInfo.MTime = r.at
		}
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := packager.Package(info, &b); err != nil {
		return "", err
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("nfpm made nothing")
	}
	path := filepath.Join(r.out, packager.ConventionalFileName(info))
	return path, os.WriteFile(path, b.Bytes(), 0o644)
}
