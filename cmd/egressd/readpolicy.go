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

// readPolicy is load.Paths where a path of "-" is standard input, with what is allowed
// in the short form.
func readPolicy(e env, paths []string, short allowFlags, o istio.Options) (load.Result, error) {
	files, err := short.read()
	if err != nil {
		return load.Result{}, err
	}
	i := slices.Index(paths, "-")
	if i < 0 {
		if len(paths) > 0 {
			read, err := source.Files(paths)
			if err != nil {
				return load.Result{}, err
			}
			files = append(files, read...)
		}
		return load.With(files, o)
	}
	if slices.Contains(paths[i+1:], "-") {
		return load.Result{}, usageError{errors.New("standard input can be read once only")}
	}
	data, err := io.ReadAll(io.LimitReader(e.stdin, source.MaxFileSize+1))
	switch {
	case err != nil:
		return load.Result{}, fmt.Errorf("read standard input: %w", err)
	case len(data) > source.MaxFileSize:
		return load.Result{}, fmt.Errorf("standard input is larger than %d bytes", source.MaxFileSize)
	}
	if others := slices.Concat(paths[:i], paths[i+1:]); len(others) > 0 {
		read, err := source.Files(others)
		if err != nil {
			return load.Result{}, err
		}
		files = append(files, read...)
	}
	return load.With(append(files, istio.File{Name: stdinName, Data: data}), o)
}
