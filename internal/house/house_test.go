// SPDX-License-Identifier: Apache-2.0

package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

const (
	module = "github.com/egressd/egressd"
	root   = "../.."
	// maxLines bounds a file: what is longer has two subjects.
	maxLines = 600
)

// pkg is what "go list -json" says of a package, as far as the rules need it.
type pkg struct {
	ImportPath, Doc                    string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

var list = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
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
})

func packages(t *testing.T) []pkg {
	t.Helper()
	all, err := list()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return all
}

// short writes this module's packages as "./policy".
func short(path string) string {
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		return "./" + rest
	}
	return path
}

// files calls f for every file of the repository with one of the endings.
func files(t *testing.T, f func(path string, content []byte), endings ...string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if path != root && (strings.HasPrefix(d.Name(), ".") || path == filepath.Join(root, "bin")) {
				return filepath.SkipDir
			}
			return nil
		}
		for _, e := range endings {
			if strings.HasSuffix(path, e) {
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				n++
				f(strings.TrimPrefix(path, root+"/"), content)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Fatalf("no files that end in %v: the walk starts in the wrong place", endings)
	}
}

// generatedLine is the line of https://go.dev/s/generatedcode.
var generatedLine = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

func generated(content []byte) bool { return generatedLine.Match(content) }

// head is the first lines of a file, where a licence header must be.
func head(content []byte) string {
	lines := strings.SplitN(string(content), "\n", 4)
	return strings.Join(lines[:min(3, len(lines))], "\n")
}

func TestLicenceHeaders(t *testing.T) {
	files(t, func(path string, content []byte) {
		if !generated(content) && !strings.HasPrefix(head(content), "// SPDX-License-Identifier: Apache-2.0\n") {
			t.Errorf("%s does not start with: // SPDX-License-Identifier: Apache-2.0", path)
		}
	}, ".go")
	files(t, func(path string, content []byte) {
		if !strings.Contains(head(content), "SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause") {
			t.Errorf("%s does not say SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause in its first lines", path)
		}
	}, ".c", ".h")
	for _, name := range []string{"LICENSE", "bpf/LICENSE"} {
		if text, err := os.ReadFile(filepath.Join(root, name)); err != nil || len(text) == 0 {
			t.Errorf("%s: %v, %d bytes", name, err, len(text))
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", short(p.ImportPath))
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	files(t, func(path string, content []byte) {
		if n := bytes.Count(content, []byte("\n")); n > maxLines && !generated(content) {
			t.Errorf("%s has %d lines, more than %d: it has two subjects", path, n, maxLines)
		}
	}, ".go", ".c", ".h")
}

func TestModuleReplacesNothing(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "replace" {
			t.Errorf("go.mod replaces a module, which nobody who imports egressd would get: %s", strings.TrimSpace(line))
		}
	}
}

// TestLocalLinks follows the relative links of the documentation.
func TestLocalLinks(t *testing.T) {
	files(t, func(path string, content []byte) {
		for _, part := range strings.Split(string(content), "](")[1:] {
			target, _, ok := strings.Cut(part, ")")
			target, _, _ = strings.Cut(target, "#")
			if !ok || target == "" || strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(path), target)); err != nil {
				t.Errorf("%s links to %s, which is not there", path, target)
			}
		}
	}, ".md")
}
