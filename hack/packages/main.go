// SPDX-License-Identifier: Apache-2.0

// Command packages makes what is released out of binaries that are built already: a .deb
// and an .rpm for each, the list of what is in them (CycloneDX), and SHA256SUMS. Manual
// pages and completions come from the program itself, so the one for this machine is
// called. The same binaries, version and time make the same bytes.
//
// deploy/packages has what the packages contain, and their scripts.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// release is what is made.
type release struct {
	top      string            // the repository
	out      string            // where it is written
	version  string            // as git describes it
	at       time.Time         // the time that all files bear
	binaries map[string]string // by GOARCH
}

func main() {
	r := release{binaries: map[string]string{}}
	flag.StringVar(&r.top, "top", ".", "the repository's `DIRECTORY`")
	flag.StringVar(&r.out, "o", "bin/release", "`DIRECTORY` to write to")
	flag.StringVar(&r.version, "version", "dev", "version, as git describes it")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: packages [-top DIRECTORY] [-version V] [-o DIRECTORY] ARCH=BINARY...\n\n"+
			"SOURCE_DATE_EPOCH is the time that files bear, in seconds since 1970.\n\nexample: packages amd64=bin/egressd-amd64 arm64=bin/egressd-arm64")
		flag.PrintDefaults()
	}
	flag.Parse()
	for _, b := range flag.Args() {
		arch, path, ok := strings.Cut(b, "=")
		if !ok {
			flag.Usage()
			os.Exit(2)
		}
		r.binaries[arch] = path
	}
	if err := r.make(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		os.Exit(1)
	}
}

// make writes everything to the directory, at the time epoch.
func (r *release) make(epoch string) error {
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	r.at = time.Unix(seconds, 0).UTC()
	own, ok := r.binaries[runtime.GOARCH]
	if !ok {
		return errors.New("a binary for this machine, " + runtime.GOARCH + ", is needed: manual pages are made by it")
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "egressd-packages")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := r.documents(own, work); err != nil {
		return err
	}
	var made []string
	for _, arch := range []string{"amd64", "arm64"} {
		binary, ok := r.binaries[arch]
		if !ok {
			continue
		}
		files, err := r.of(arch, binary, work)
		if err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
		made = append(made, files...)
	}
	return sums(filepath.Join(r.out, "SHA256SUMS"), made)
}

// of makes what there is for one architecture: the binary, what is in it, the packages.
func (r *release) of(arch, binary, work string) (made []string, err error) {
	name := filepath.Join(r.out, fmt.Sprintf("egressd-%s-linux-%s", packageVersion(r.version, r.at, r.newest()), arch))
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(name, data, 0o755); err != nil {
		return nil, err
	}
	if err := bill(binary, name+".cdx.json", r.version, r.at); err != nil {
		return nil, err
	}
	made = append(made, name, name+".cdx.json")
	for _, format := range []string{"deb", "rpm"} {
		path, err := r.pack(format, arch, binary, work)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", format, err)
		}
		made = append(made, path)
	}
	return made, nil
}
