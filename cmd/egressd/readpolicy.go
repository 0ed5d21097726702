// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
	"github.com/egressd/egressd/policy/source"
)

// stdinName is how findings call standard input.
const stdinName = "<stdin>"

var errStdinTwice = errors.New("standard input can be read once only: - may stand in one place")

// readPolicy is load.Paths where a path of "-" is standard input, with what is allowed
// in the short form.
func readPolicy(e env, paths []string, short allowFlags, o istio.Options) (load.Result, error) {
	files, err := short.read()
	if err != nil {
		return load.Result{}, err
	}
	read, err := readFiles(e, paths)
	if err != nil {
		return load.Result{}, err
	}
	return load.With(append(files, read...), o)
}

// readFiles is source.Files where a path of "-" is standard input, and no paths are
// no files.
func readFiles(e env, paths []string) ([]istio.File, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	i := slices.Index(paths, "-")
	if i < 0 {
		return source.Files(paths)
	}
	if slices.Contains(paths[i+1:], "-") {
		return nil, usageError{errStdinTwice}
	}
	data, err := io.ReadAll(io.LimitReader(e.stdin, source.MaxFileSize+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read standard input: %w", err)
	case len(data) > source.MaxFileSize:
		return nil, fmt.Errorf("standard input is larger than %d bytes", source.MaxFileSize)
	}
	var files []istio.File
	if others := slices.Concat(paths[:i], paths[i+1:]); len(others) > 0 {
		if files, err = source.Files(others); err != nil {
			return nil, err
		}
	}
	return append(files, istio.File{Name: stdinName, Data: data}), nil
}
