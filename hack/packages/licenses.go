// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// licenses are the texts under which the modules that a binary has in it may be passed
// on, from Go's module cache.
func licenses(top, binary string) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	args := []string{"list", "-m", "-json"}
	for _, m := range info.Deps {
		args = append(args, m.Path)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = top, os.Stderr
	list, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for d := json.NewDecoder(bytes.NewReader(list)); d.More(); {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); err != nil {
			return nil, err
		}
		text, err := license(m.Dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Path, err)
		}
		fmt.Fprintf(&b, "==== %s %s\n\n%s\n", m.Path, m.Version, text)
	}
	return b.Bytes(), nil
}

// license is what a module says of its license. A module without one is an error.
func license(dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || !slices.ContainsFunc([]string{"LICENSE", "LICENCE", "NOTICE", "COPYING"}, func(s string) bool { return strings.HasPrefix(name, s) }) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s\n", text)
	}
	if b.Len() == 0 {
		return nil, fmt.Errorf("no license in %s", dir)
	}
	return b.Bytes(), nil
}
