// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

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
