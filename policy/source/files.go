// SPDX-License-Identifier: Apache-2.0

// Package source brings configuration to the daemon: it reads files and
// directories, and says when they may have changed.
package source

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/egressd/egressd/policy/istio"
)

// MaxFileSize is the most bytes that a configuration file may have.
const MaxFileSize = 16 << 20

// MaxSize is the most bytes that all of them together may have.
const MaxSize = 1 << 30

// Files reads the configuration files that paths name. A path is a file, of
// any name, or a directory, whose *.yaml, *.yml and *.json files are read in
// the order of their names; it is not searched deeper, and files whose name
// starts with a dot are left out (so a ConfigMap mount with its ..data link is
// read once). Symbolic links are followed; what they lead to must be a regular
// file, and none that the kernel makes up (of /proc or /sys). A file that several paths lead to
// is read once.
//
// All errors are returned together, and then no files: half of a
// configuration is another configuration. A directory without configuration
// is an error as well (EmptyError), for it is a wrong path far more often than it
// is meant.
func Files(paths []string) ([]istio.File, error) { return new(Cache).Files(paths) }

// list returns the names of the files that paths lead to, without repetition.
func list(paths []string) (names []string, errs []error) {
	if len(paths) == 0 {
		return nil, []error{errors.New("no configuration path given")}
	}
	listed := map[string]bool{}
	add := func(name string) {
		if !listed[name] {
			listed[name] = true
			names = append(names, name)
		}
	}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !info.IsDir() {
			add(filepath.Clean(p))
			continue
		}
		found, err := listDir(p)
		if err != nil {
			errs = append(errs, err)
		}
		for _, name := range found {
			add(name)
		}
	}
	return names, errs
}

// listDir returns the configuration files of a directory in order.
func listDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !isConfig(e.Name()) {
			continue
		}
		name := filepath.Join(dir, e.Name())
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink == 0 {
			continue // removed since the listing
		}
		if err != nil {
			return nil, err // a dangling link is a mistake, not an absence
		}
		if info.IsDir() {
			continue
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, &EmptyError{dir}
	}
	return names, nil
}

// EmptyError says that a directory has no configuration.
type EmptyError struct{ Dir string }

func (e *EmptyError) Error() string {
	return e.Dir + ": no *.yaml, *.yml or *.json file in the directory"
}

func isConfig(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}
