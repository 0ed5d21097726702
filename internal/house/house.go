// SPDX-License-Identifier: Apache-2.0

// Package house holds the rules of the repository as tests: what may import
// what, licence headers, package documentation, file lengths, the order of
// files. It also measures what the rules are about; hack/house prints that.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"strings"
)

// pkg is what "go list -json" says of a package, as far as the rules need it.
type pkg struct {
	ImportPath, Doc, Dir, Export       string
	GoFiles                            []string
	TestGoFiles, XTestGoFiles          []string
	Imports, TestImports, XTestImports []string
}

// goList lists packages; in is the directory of the module.
func goList(in string, args ...string) ([]pkg, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(err, errors.New(stderr.String()))
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, p)
	}
}

const module = "github.com/egressd/egressd"

// short writes this module's packages as "./policy".
func short(path string) string {
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		return "./" + rest
	}
	return path
}

// generatedLine is the line of https://go.dev/s/generatedcode.
var generatedLine = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

func generated(content []byte) bool { return generatedLine.Match(content) }
