// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs is the directory with etcd, kube-apiserver and kubectl (set "api")
// or with those and all else that a node needs (set "all"). Where they are not
// built yet, they are built; that takes minutes. Of several tests that ask, in
// whichever process, one builds.
func Programs(set string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	out, err := output(filepath.Join(root, "hack", "kube", "build"), set)
	if err != nil {
		return "", fmt.Errorf("building the programs of Kubernetes: %w", err)
	}
	return out, nil
}

// Root is the directory of this repository.
func Root() (string, error) { return moduleDir("") }

// moduleDir is the directory of a module that this one requires; of this one
// if the path is empty.
func moduleDir(path string) (string, error) {
	args := []string{"list", "-m", "-f", "{{.Dir}}"}
	if path != "" {
		args = append(args, path)
	}
	dir, err := output("go", args...)
	if err == nil && dir == "" {
		err = errors.New("not in the module cache: run go mod download")
	}
	if err != nil {
		return "", fmt.Errorf("the module %s: %w", path, err)
	}
	return dir, nil
}

// output is what a command prints, without the end of the line; the error has
// what it prints on its standard error.
func output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off")
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", name, err, problem.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}
