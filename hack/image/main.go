// SPDX-License-Identifier: Apache-2.0

// Command image makes the container image of egressd as an OCI archive, from
// binaries that are built already. It needs no registry, no container runtime
// and no base image: egressd is a static program, and the image holds it, the
// directories that it expects, the root certificates of the web (Mozilla's, as a
// Go module has them), and nothing else. The same binaries make the same bytes.
//
// The archive (OCI Image Layout, image-spec v1.1) is what "ctr images import",
// "podman load", "docker load" (from version 25) and "skopeo copy
// oci-archive:FILE" read.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// epoch is the time that all files of the image bear.
var epoch = time.Unix(0, 0).UTC()

// directories are those that egressd uses, mode 0700 unless it says otherwise.
// Mounts of the node take the place of most of them.
var directories = []struct {
	name string
	mode int64
}{
	{"etc/", 0o755},
	{"etc/egressd/", 0o755},
	{"etc/ssl/", 0o755},
	{"etc/ssl/certs/", 0o755},
	{"run/", 0o755},
	{"run/egressd/", 0o700},
	{"sys/", 0o755},
	{"tmp/", 0o1777},
	{"usr/", 0o755},
	{"usr/bin/", 0o755},
	{"var/", 0o755},
	{"var/lib/", 0o755},
	{"var/lib/egressd/", 0o700},
}

func main() {
	name := flag.String("name", "egressd:dev", "`NAME:TAG` of the image")
	version := flag.String("version", "dev", "version, for the image's labels")
	out := flag.String("o", "egressd-image.tar", "the archive to write")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: image [-name NAME:TAG] [-version V] [-o FILE] ARCH=BINARY...\n\nexample: image -o egressd.tar amd64=bin/egressd-amd64 arm64=bin/egressd-arm64")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*out, *name, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write makes the archive out of one binary for each architecture.
func write(out, name, version string, binaries []string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range binaries {
		arch, path, ok := strings.Cut(b, "=")
		if !ok {
			return fmt.Errorf("%q is not ARCH=BINARY", b)
		}
		img, err := image(arch, path, version)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	dir, err := os.MkdirTemp("", "egressd-image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	_, tag, _ := strings.Cut(name, ":")
	if err := l.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          full(name),
		"org.opencontainers.image.ref.name": tag,
	})); err != nil {
		return err
	}
	return archive(out, dir)
}

// full is a name as containerd keeps it: with a registry in front.
func full(name string) string {
	switch strings.Count(name, "/") {
	case 0:
		return "docker.io/library/" + name
	case 1:
		return "docker.io/" + name
	}
	return name
}

// image is the image for one architecture.
func image(arch, binary, version string) (v1.Image, error) {
	files, err := root(binary)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "egressd hack/image", Created: v1.Time{Time: epoch}}})
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Created = "linux", arch, v1.Time{Time: epoch}
	cfg.Config = v1.Config{
		Entrypoint: []string{"/usr/bin/egressd"},
		Cmd:        []string{"--help"},
		Env:        []string{"PATH=/usr/bin"},
		// It attaches programs and keeps them: root, with the capabilities
		// that the manifest grants.
		User:       "0:0",
		WorkingDir: "/",
		StopSignal: "SIGTERM",
		Labels: map[string]string{
			"org.opencontainers.image.title":    "egressd",
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.source":   "https://github.com/egressd/egressd",
			"org.opencontainers.image.licenses": "Apache-2.0 AND (GPL-2.0 OR BSD-2-Clause)",
		},
	}
	return mutate.ConfigFile(img, cfg)
}

// root is the file system of the image as a tar archive.
func root(binary string) ([]byte, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, d := range directories {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d.name, Mode: d.mode, ModTime: epoch}); err != nil {
			return nil, err
		}
	}
	for _, f := range []struct {
		name string
		mode int64
		data []byte
	}{
		{rootsFile, 0o644, roots()},
		{"usr/bin/egressd", 0o755, data},
	} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: epoch}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// rootsFile is the first place where crypto/x509 looks for the system's roots.
const rootsFile = "etc/ssl/certs/ca-certificates.crt"

// roots are the certificates that programs trust unless told otherwise, in PEM. Roots
// that are trusted with constraints, which PEM cannot say, are left out.
func roots() []byte {
	var b bytes.Buffer
	for r := range bundle.Roots() {
		if r.Constraint == nil {
			// A bytes.Buffer takes all.
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate})
		}
	}
	return b.Bytes()
}

// archive writes all files below dir, in the order of their names, to a tar
// archive, which is there when it is whole.
func archive(out, dir string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(out), ".image")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: rel, Mode: 0o644, Size: int64(len(data)), ModTime: epoch}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), out)
}
