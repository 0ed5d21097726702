// SPDX-License-Identifier: Apache-2.0

// Package examples holds the example policies, so that `egressd demo` has
// them without files.
package examples

import (
	"embed"
	"io/fs"
)

//go:embed seed/*.yaml
var files embed.FS

// Seed is the seed policy: one YAML file for each of its cases, without a
// directory.
func Seed() fs.FS {
	sub, err := fs.Sub(files, "seed")
	if err != nil {
		panic(err) // the name is a constant of this file
	}
	return sub
}
