// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Within says whether a file is named as one below some of dirs. Links are followed by
// whoever opens it: who may write in a directory says what is in it.
func Within(dirs []string, file string) bool {
	file = filepath.Clean(file)
	return slices.ContainsFunc(dirs, func(dir string) bool {
		rel, err := filepath.Rel(filepath.Clean(dir), file)
		return err == nil && filepath.IsLocal(rel)
	})
}

// MaxFile is the most that a file may have, in bytes.
const MaxFile = 1 << 20

// ReadFile reads a file of bounded size. Nothing else is read: to open a pipe or
// a device could last for ever.
func ReadFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a file")
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(data) > MaxFile {
		err = fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	return data, err
}
