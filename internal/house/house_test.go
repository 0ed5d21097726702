// SPDX-License-Identifier: Apache-2.0

package house

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	root = "../.."
	// maxLines bounds a file: what is longer has two subjects.
	maxLines = 600
)

var list = sync.OnceValues(func() ([]pkg, error) {
	return goList(root, "-json=ImportPath,Dir,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
})

func packages(t *testing.T) []pkg {
	t.Helper()
	all, err := list()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return all
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
