// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const (
	version = "v0.1.0"
	epoch   = "1700000000"
)

// built is the program, and made what becomes of it.
var built, made string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "egressd-packages-test")
	if err == nil {
		defer os.RemoveAll(dir)
		built, made = filepath.Join(dir, "egressd"), filepath.Join(dir, "made")
		cmd := exec.Command("go", "build", "-C", "../..", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", built, "./cmd/egressd")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		if err = cmd.Run(); err == nil {
			err = into(made)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// into makes a release. What the program for arm64 is made of does not matter here.
func into(dir string) error {
	top, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	r := release{top: top, out: dir, version: version, binaries: map[string]string{"amd64": built, "arm64": built}}
	return r.make(epoch)
}

// output is what a command prints. The test fails when the command does.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// TestReproducible: the same twice is the same, byte for byte.
func TestReproducible(t *testing.T) {
	again := t.TempDir()
	if err := into(again); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(made)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 9 { // two of a program, its list, .deb and .rpm; the sums
		t.Errorf("%d files", len(files))
	}
	for _, f := range files {
		one, err := os.ReadFile(filepath.Join(made, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(filepath.Join(again, f.Name()))
		if err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s is another one the second time: %v", f.Name(), err)
		}
	}
}

// TestSums: sha256sum accepts them, and not those of another file.
func TestSums(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(made)); err != nil {
		t.Fatal(err)
	}
	check := exec.Command("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "egressd_0.1.0_amd64.deb"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if again := exec.Command("sha256sum", "--check", filepath.Join(dir, "SHA256SUMS")); again.Run() == nil {
		t.Error("another package has the same sum")
	}
}

// TestDeb: what a .deb has, where, with which mode, and what dpkg asks about when it was
// changed.
func TestDeb(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		deb := filepath.Join(made, "egressd_0.1.0_"+arch+".deb")
		if got := output(t, "dpkg-deb", "--field", deb, "Package", "Version", "Architecture"); got != "Package: egressd\nVersion: 0.1.0\nArchitecture: "+arch+"\n" {
			t.Errorf("%s", got)
		}
		control := t.TempDir()
		output(t, "dpkg-deb", "--control", deb, control)
		conffiles, err := os.ReadFile(filepath.Join(control, "conffiles"))
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Fields(string(conffiles))
		slices.Sort(got)
		if want := []string{"/etc/default/egressd", "/etc/egressd/policy.yaml", "/etc/logrotate.d/egressd"}; !slices.Equal(got, want) {
			t.Errorf("conffiles %q, want %q", got, want)
		}
		for _, name := range []string{"postinst", "prerm", "postrm"} {
			if info, err := os.Stat(filepath.Join(control, name)); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%s: %v, %v", name, info, err)
			}
		}
		list := output(t, "dpkg-deb", "--contents", deb)
		for _, want := range files {
			if !hasFile(list, want) {
				t.Errorf("%s: no %s in\n%s", arch, want, list)
			}
		}
		if hasFile(list, "-rw-r--r-- ./usr/share/zsh/site-functions/_egressd") {
			t.Error("there are files of the .rpm")
		}
	}
}

// files are some of a .deb's.
var files = []string{
	"-rwxr-xr-x ./usr/bin/egressd",
	"-rw-r--r-- ./usr/lib/systemd/system/egressd.service",
	"-rw-r--r-- ./usr/share/man/man1/egressd-run.1.gz",
	"-rw-r--r-- ./usr/share/man/man5/egressd-policy.5.gz",
	"-rw-r--r-- ./usr/share/bash-completion/completions/egressd",
	"-rw-r--r-- ./usr/share/zsh/vendor-completions/_egressd",
	"-rw-r--r-- ./usr/share/fish/vendor_completions.d/egressd.fish",
	"-rw-r--r-- ./usr/share/doc/egressd/third-party-licenses.gz",
	"drwxr-xr-x ./etc/egressd/",
	"drwx------ ./etc/egressd/credentials/",
}

// hasFile looks for a line of "dpkg-deb --contents" with this mode and path, of root.
func hasFile(list, want string) bool {
	mode, path, _ := strings.Cut(want, " ")
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) == 6 && f[0] == mode && f[1] == "root/root" && f[5] == path {
			return true
		}
	}
	return false
}

// TestRPM: what an .rpm has, and what rpm keeps when it was changed.
func TestRPM(t *testing.T) {
	for goarch, arch := range map[string]string{"amd64": "x86_64", "arm64": "aarch64"} {
		rpm := filepath.Join(made, "egressd-0.1.0-1."+arch+".rpm")
		if got := output(t, "rpm", "-qp", "--nosignature", "--queryformat", "%{NAME} %{VERSION} %{ARCH} %{BUILDTIME} %{BUILDHOST}", rpm); got != "egressd 0.1.0 "+arch+" "+epoch+" egressd" {
			t.Errorf("%s: %s", goarch, got)
		}
		list := strings.Fields(output(t, "rpm", "-qpl", "--nosignature", rpm))
		for _, want := range []string{"/usr/bin/egressd", "/usr/lib/systemd/system/egressd.service", "/etc/sysconfig/egressd", "/usr/share/zsh/site-functions/_egressd"} {
			if !slices.Contains(list, want) {
				t.Errorf("%s: no %s in %q", goarch, want, list)
			}
		}
		config := strings.Fields(output(t, "rpm", "-qpc", "--nosignature", rpm))
		slices.Sort(config)
		if want := []string{"/etc/egressd/policy.yaml", "/etc/logrotate.d/egressd", "/etc/sysconfig/egressd"}; !slices.Equal(config, want) {
			t.Errorf("%s: config %q, want %q", goarch, config, want)
		}
		// What --excludedocs leaves out, and what it does not.
		for flag, want := range map[string][]string{
			"-d": {"/usr/share/doc/egressd/NEWS.gz", "/usr/share/doc/egressd/examples/googleapis.yaml"},
			"-L": {"/usr/share/doc/egressd/copyright", "/usr/share/doc/egressd/third-party-licenses.gz"},
		} {
			got := strings.Fields(output(t, "rpm", "-qp", flag, "--nosignature", rpm))
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: rpm -q %s lists %q, want %q", goarch, flag, got, want)
			}
		}
		scripts := output(t, "rpm", "-qp", "--nosignature", "--scripts", rpm)
		for _, want := range []string{"postinstall scriptlet", "preuninstall scriptlet", "postuninstall scriptlet"} {
			if !strings.Contains(scripts, want) {
				t.Errorf("%s: no %s", goarch, want)
			}
		}
	}
}

// unpacked is the .deb for this machine.
func unpacked(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	output(t, "dpkg-deb", "--extract", filepath.Join(made, "egressd_0.1.0_"+runtime.GOARCH+".deb"), dir)
	return dir
}

// plain is the text of a page.
func plain(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestManual: every verb has a page, which is right, and which is about its flags.
func TestManual(t *testing.T) {
	man := filepath.Join(unpacked(t), "usr/share/man")
	pages, err := filepath.Glob(man + "/man?/*.gz")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range pages {
		lint := exec.Command("mandoc", "-Tlint", "-Wwarning")
		lint.Stdin = strings.NewReader(plain(t, page))
		if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", filepath.Base(page), err, out)
		}
	}
	for line := range strings.Lines(output(t, built, "__complete", "")) {
		verb, _, ok := strings.Cut(line, "\t")
		if !ok || verb == "help" {
			continue
		}
		if _, err := os.Stat(filepath.Join(man, "man1", "egressd-"+verb+".1.gz")); err != nil {
			t.Error(err)
		}
	}
	run := exec.Command("mandoc", "-Tascii")
	run.Stdin = strings.NewReader(plain(t, filepath.Join(man, "man1/egressd-run.1.gz")))
	out, err := run.Output()
	text := bold.Replace(string(out))
	for _, want := range []string{`--log-format="auto"`, "--unit=[]", "sudo egressd run --config /etc/egressd", "egressd 0.1.0", "2023-11-14"} {
		if !strings.Contains(text, want) {
			t.Errorf("egressd-run(1) has no %s: %v", want, err)
		}
	}
}

// bold takes away how mandoc prints bold letters.
var bold = func() *strings.Replacer {
	var pairs []string
	for c := ' '; c < 0x7f; c++ {
		pairs = append(pairs, string(c)+"\b"+string(c), string(c), "_\b"+string(c), string(c))
	}
	return strings.NewReplacer(pairs...)
}()

// TestLogrotate: logrotate understands its file, and would not one with a mistake.
func TestLogrotate(t *testing.T) {
	config, err := os.ReadFile(filepath.Join(unpacked(t), "etc/logrotate.d/egressd"))
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(text string) (string, error) {
		dir := t.TempDir()
		path := filepath.Join(dir, "config")
		text = strings.ReplaceAll(text, "/var/log/egressd/", dir+"/")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return "", err
		}
		out, err := exec.Command("/usr/sbin/logrotate", "--debug", "--state", dir+"/state", path).CombinedOutput()
		return string(out), err
	}
	if out, err := rotate(string(config)); err != nil || strings.Contains(out, "error:") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := rotate(strings.Replace(string(config), "weekly", "sometimes", 1)); err == nil && !strings.Contains(out, "error:") {
		t.Errorf("a mistake is none: %s", out)
	}
}

// TestDefaultIsOff: nothing of what is installed is a policy, and what it proposes is one.
func TestDefaultIsOff(t *testing.T) {
	policy, err := os.ReadFile(filepath.Join(unpacked(t), "etc/egressd/policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var proposed strings.Builder
	for line := range strings.Lines(string(policy)) {
		if !strings.HasPrefix(line, "#") {
			t.Errorf("%q is in force", line)
		}
		if text, _ := strings.CutPrefix(line, "#"); !strings.HasPrefix(text, " ") || proposed.Len() > 0 {
			if text != "\n" || proposed.Len() > 0 {
				proposed.WriteString(text)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(proposed.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := output(t, built, "check", path); !strings.Contains(out, "0 errors, 0 warnings; 2 services") {
		t.Errorf("%s", out)
	}
}
