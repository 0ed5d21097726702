// SPDX-License-Identifier: Apache-2.0

// Package localsocket opens unix sockets for others to connect to, at paths where
// nobody but root can put something else.
package localsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/internal/securedir"
)

// Mode is the mode of a socket. Its group is that of the directory, so that who may
// connect is said there: by the mode and the group of one directory, once.
const Mode = 0o660

// MaxPath is how long the path of a socket may be, in bytes (unix(7), sun_path without
// the zero that ends it). The kernel says "invalid argument" of a longer one.
const MaxPath = 107

// ErrInUse says that another process listens at the path.
var ErrInUse = errors.New("another process listens there")

// CheckPath says whether the kernel takes the path of a socket. A longer one may be of a
// socket that is there, but nobody can name it in a call.
func CheckPath(path string) error {
	if over := len(path) - MaxPath; over > 0 {
		return fmt.Errorf("%s has %d bytes, %d too many: the kernel takes no path of a unix socket with more than %d (unix(7))", path, len(path), over, MaxPath)
	}
	return nil
}

// LocalListener listens at a path.
type LocalListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo // what is at the path
}

// Listen opens a socket at an absolute path. The directory, and all above it, must be
// root's or this user's alone (securedir.Error). A socket that is there already is
// replaced if nobody listens; if somebody does, the error wraps ErrInUse and says who.
// What is there and no socket stays, and is an error.
func Listen(ctx context.Context, path string) (*LocalListener, error) {
	if err := clear(ctx, path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: private}
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	u := ln.(*net.UnixListener)
	u.SetUnlinkOnClose(false) // another one may have the socket by then
	s, err := of(u, path)
	if err == nil {
		err = s.open()
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(path), u.Close())
	}
	return s, nil
}

// Adopt is the socket of a listener that an earlier process had at the path. It must be
// there still: else nobody could connect, and the error wraps fs.ErrNotExist.
func Adopt(u *net.UnixListener, path string) (*LocalListener, error) {
	u.SetUnlinkOnClose(false)
	return of(u, path)
}

func of(u *net.UnixListener, path string) (*LocalListener, error) {
	made, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	return &LocalListener{u, path, made}, nil
}

// private makes the file of a socket that is bound root's alone, until open: the
// kernel takes the mode of the socket (net/unix/af_unix.c, unix_bind_bsd).
func private(_, _ string, c syscall.RawConn) (err error) {
	return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
}

// open lets the directory's group connect.
func (s *LocalListener) open() error {
	var dir unix.Stat_t
	if err := unix.Stat(filepath.Dir(s.path), &dir); err != nil {
		return &os.PathError{Op: "stat", Path: filepath.Dir(s.path), Err: err}
	}
	return errors.Join(os.Lchown(s.path, -1, int(dir.Gid)), os.Chmod(s.path, Mode))
}

// Remove removes the file of the socket, if it is that of s still.
func (s *LocalListener) Remove() error {
	now, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !os.SameFile(now, s.made):
		return nil
	}
	return os.Remove(s.path)
}

// clear makes room for a socket at path.
func clear(ctx context.Context, path string) error {
	if err := securedir.Check(filepath.Dir(path)); err != nil {
		return err
	}
	there, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case there.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there already and no socket; it stays as it is: move it away, or choose another path", path)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		defer c.Close()
		return fmt.Errorf("%s: %w (%s); end it, or choose another path", path, ErrInUse, holder(c.(*net.UnixConn)))
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w, as far as can be seen (%w); end it, or choose another path", path, ErrInUse, err)
	}
	return os.Remove(path)
}

// holder says which process listens at the other end.
func holder(c *net.UnixConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return "it is not known which"
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil || cred.Pid == 0 {
		return "it is not known which: it may be in another pid namespace"
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	if err != nil {
		return fmt.Sprintf("process %d of uid %d", cred.Pid, cred.Uid)
	}
	return fmt.Sprintf("process %d (%s) of uid %d", cred.Pid, quote.Word(strings.TrimSpace(string(name))), cred.Uid)
}
