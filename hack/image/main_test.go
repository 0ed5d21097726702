// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// makeImage writes an archive of two binaries and returns its path.
func makeImage(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		if err := os.WriteFile(filepath.Join(dir, arch), []byte("program for "+arch), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "image.tar")
	if err := write(out, name, "1.2.3", []string{"amd64=" + filepath.Join(dir, "amd64"), "arm64=" + filepath.Join(dir, "arm64")}); err != nil {
		t.Fatal(err)
	}
	return out
}

// unpack writes the files of an archive to a directory and returns it.
func unpack(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImage: what is written is a valid image for each architecture, with
// that architecture's program in it.
func TestImage(t *testing.T) {
	top, err := layout.ImageIndexFromPath(unpack(t, makeImage(t, "egressd:1.2.3")))
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%+v, %v: not one image", m, err)
	}
	if got := m.Manifests[0].Annotations["io.containerd.image.name"]; got != "docker.io/library/egressd:1.2.3" {
		t.Errorf("name: %q", got)
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	all, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, d := range all.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		seen[d.Platform.Architecture] = true
		holds(t, img, d.Platform.Architecture)
	}
	if !seen["amd64"] || !seen["arm64"] {
		t.Errorf("architectures: %v", seen)
	}
}

// holds checks the configuration and the files of one image.
func holds(t *testing.T, img v1.Image, arch string) {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Architecture != arch || cfg.OS != "linux" || cfg.Config.Labels["org.opencontainers.image.version"] != "1.2.3" {
		t.Errorf("%s: %+v", arch, cfg)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	trusts := false
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if err != nil {
			t.Fatalf("%s: no program in the image: %v", arch, err)
		}
		data, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		switch "/" + h.Name {
		case "/etc/ssl/certs/ca-certificates.crt":
			pool := x509.NewCertPool()
			trusts = pool.AppendCertsFromPEM(data) && bytes.Count(data, []byte("BEGIN CERTIFICATE")) > 100
		case cfg.Config.Entrypoint[0]:
			if string(data) != "program for "+arch || h.Mode != 0o755 {
				t.Errorf("%s: %q, mode %o", arch, data, h.Mode)
			}
			if !trusts {
				t.Errorf("%s: no root certificates", arch)
			}
			return
		}
	}
}

// TestSameBytes: the same binaries make the same archive.
func TestSameBytes(t *testing.T) {
	a, err := os.ReadFile(makeImage(t, "x/egressd:1"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(makeImage(t, "x/egressd:1"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two archives of the same binaries differ")
	}
}

// TestNoImage: what can't be made leaves no archive.
func TestNoImage(t *testing.T) {
	out := filepath.Join(t.TempDir(), "image.tar")
	for _, args := range [][]string{{"amd64"}, {"amd64=/nonexistent"}} {
		if err := write(out, "egressd:1", "1", args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
