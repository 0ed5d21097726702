// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
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
	// reading is what has not ended in time.
	reading deadline
	// AllowEmpty takes a directory without configuration for what it says.
	AllowEmpty bool
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
	var files []istio.File
	var now map[string]cached
	var err error
	old, allow := c.files, c.AllowEmpty
	if !c.reading.run(readWait, func() { files, now, err = readAll(paths, old, allow) }) {
		return nil, fmt.Errorf("the policy could not be read within %v: a file system does not answer", readWait)
	}
	if err != nil {
		return nil, err
	}
	c.files = now
	return files, nil
}

// readAll reads what has changed since old was read.
func readAll(paths []string, old map[string]cached, allowEmpty bool) ([]istio.File, map[string]cached, error) {
	names, errs := list(paths)
	if allowEmpty {
		errs = slices.DeleteFunc(errs, func(err error) bool { return errors.As(err, new(*EmptyError)) })
	}
	files := make([]istio.File, 0, len(names))
	now := make(map[string]cached, len(names))
	total := 0
	for _, name := range names {
		f, err := old[name].read(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if total += len(f.data); total > MaxSize {
			errs = append(errs, fmt.Errorf("%s: with it the policy is larger than %d bytes", name, MaxSize))
			break
		}
		now[name] = f
		files = append(files, istio.File{Name: name, Data: f.data})
	}
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	return files, now, nil
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
	for range readAgain {
		if now, err := old.readOnce(name); !errors.Is(err, errChanging) {
			return now, err
		}
	}
	return cached{}, fmt.Errorf("%s: %w", name, errChanging)
}

// readAgain is how often a file is read that changes while it is.
const readAgain = 3

var errChanging = errors.New("it is being written, so nothing but a part of it could be read")

// readOnce reads a file that has changed.
func (old cached) readOnce(name string) (cached, error) {
	start := time.Now()
	// What was opened, before it is read: a change from here on shows.
	f, info, err := open(name)
	if err != nil {
		return cached{}, err
	}
	defer f.Close()
	data, err := content(f, info)
	if err != nil {
		return cached{}, err
	}
	data = bytes.Clone(data) // it stays: without the room for more
	if old.data != nil && bytes.Equal(data, old.data) {
		data = old.data
	}
	s := stampOf(info)
	if after, err := f.Stat(); err != nil || stampOf(after) != s {
		return cached{}, errors.Join(err, errChanging)
	}
	return cached{stamp: s, data: data, fresh: start.UnixNano()-max(s.mtime, s.ctime) < int64(settled)}, nil
}
