// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// readWait bounds how long reading all files may take. A file system that
// does not answer (a network that is gone, a FUSE daemon that is stuck) must
// not stop the daemon from going on, nor from ending.
const readWait = 10 * time.Second

// kernelFiles are the file systems whose files are not on a disk or in memory
// but made by the kernel when they are read, by their numbers (statfs(2)).
// Reading one can block for ever or change something.
var kernelFiles = map[int64]string{
	0x9fa0:     "proc",
	0x62656572: "sysfs",
	0x64626720: "debugfs",
	0x74726163: "tracefs",
	0x27e0eb:   "cgroup",
	0x63677270: "cgroup2",
	0xcafe4a11: "bpf",
	0x73636673: "securityfs",
	0x62656570: "configfs",
	0x1cd1:     "devpts",
	0x65735543: "fusectl",
	0x6165676c: "pstore",
	0xde5e81e4: "efivarfs",
	0x19800202: "mqueue",
	0x42494e4d: "binfmt_misc",
	0x6e736673: "nsfs",
	0x50495045: "pipefs",
	0x534f434b: "sockfs",
	0xf97cff8c: "selinuxfs",
	0x67596969: "rpc_pipefs",
}

// open opens a regular file of a real file system, and says what was opened.
// Whatever it is, neither the opening nor a first look blocks.
func open(name string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = real(f, info)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func real(f *os.File, info os.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", f.Name())
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var st syscall.Statfs_t
	if cerr := raw.Control(func(fd uintptr) { err = syscall.Fstatfs(int(fd), &st) }); cerr != nil || err != nil {
		return errors.Join(cerr, err)
	}
	if kind, ok := kernelFiles[int64(uint32(st.Type))]; ok {
		return fmt.Errorf("%s: a file of %s, which the kernel makes up; write the policy to a file of its own", f.Name(), kind)
	}
	return nil
}

// content reads a file whole, if it is not larger than a policy file may be.
func content(f *os.File, info os.FileInfo) ([]byte, error) {
	if info.Size() > MaxFileSize {
		return nil, fmt.Errorf("%s: larger than %d bytes", f.Name(), MaxFileSize)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err == nil && len(data) > MaxFileSize {
		err = fmt.Errorf("%s: larger than %d bytes", f.Name(), MaxFileSize)
	}
	return data, err
}

// deadline runs functions that may never return, one at a time.
type deadline struct {
	hung chan struct{} // of the one that has not returned; nil: there is none
}

// run waits for f for so long. It is false when f has not returned, or an
// earlier one has still not; f must not touch what others use meanwhile.
func (d *deadline) run(wait time.Duration, f func()) bool {
	if d.hung != nil {
		select {
		case <-d.hung:
		default:
			return false
		}
	}
	done := make(chan struct{})
	d.hung = done
	go func() { defer close(done); f() }()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-done:
		d.hung = nil
		return true
	case <-timer.C:
		return false
	}
}
