// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/egressd/egressd/policy/istio"
)

// settled is how old the last change of a file must be when the file is read
// for its stamp to tell the next change: two writes within one tick of a file
// system's clock leave the same times.
const settled = time.Second

// Cache reads files as Files does, and reads those again that have changed
// since. A file that has not changed has the same Data, the same memory even,
// which must not be written to. The zero Cache is empty. A Cache is used by
// one goroutine.
type Cache struct {
	files map[string]cached // by name
}

// cached is a file as it was read.
type cached struct {
	stamp stamp
	data  []byte
	// fresh says that the file had not settled.
	fresh bool
}

// Files returns the files that paths name; see the function Files.
func (c *Cache) Files(paths []string) ([]istio.File, error) {
	names, errs := list(paths)
	files := make([]istio.File, 0, len(names))
	now := make(map[string]cached, len(names))
	for _, name := range names {
		f, err := c.files[name].read(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		now[name] = f
		files = append(files, istio.File{Name: name, Data: f.data})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	c.files = now
	return files, nil
}

// read returns the file called name, which is old unless it changed. Pipes
// and devices are refused before they are opened: reading one could block for
// ever.
func (old cached) read(name string) (cached, error) {
	info, err := os.Stat(name)
	if err != nil {
		return cached{}, err
	}
	if !info.Mode().IsRegular() {
		return cached{}, fmt.Errorf("%s: not a regular file", name)
	}
	if old.data != nil && !old.fresh && stampOf(info) == old.stamp {
		return old, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return cached{}, err
	}
	defer f.Close()
	// What was opened, before it is read: a change from here on shows.
	start := time.Now()
	if info, err = f.Stat(); err != nil {
		return cached{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return cached{}, err
	}
	if len(data) > MaxFileSize {
		return cached{}, fmt.Errorf("%s: larger than %d bytes", name, MaxFileSize)
	}
	data = bytes.Clone(data) // it stays: without the room for more
	if old.data != nil && bytes.Equal(data, old.data) {
		data = old.data
	}
	s := stampOf(info)
	return cached{stamp: s, data: data, fresh: start.UnixNano()-max(s.mtime, s.ctime) < int64(settled)}, nil
}
