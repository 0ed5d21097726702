// SPDX-License-Identifier: Apache-2.0

package securedir

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const nobody = 65534

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// chmod is not subject to the umask, as Mkdir's mode is.
func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	must(t, os.Chmod(path, mode))
}

// TestLevels: each directory on the way counts.
func TestLevels(t *testing.T) {
	testenv.RequireRoot(t)
	for _, c := range []struct {
		name  string
		level string // which of a/b/c is changed
		uid   int
		mode  os.FileMode
		link  bool
		want  string // in the error
	}{
		{name: "root's", level: "a/b", mode: 0o755},
		{name: "another's, above", level: "a", uid: nobody, mode: 0o755, want: "belongs to uid 65534"},
		{name: "another's, the parent", level: "a/b", uid: nobody, mode: 0o700, want: "belongs to uid 65534"},
		{name: "another's, the last", level: "a/b/c", uid: nobody, mode: 0o700, want: "belongs to uid 65534"},
		{name: "another's, sticky", level: "a", uid: nobody, mode: 0o777 | os.ModeSticky, want: "belongs to uid 65534"},
		{name: "all may write above", level: "a", mode: 0o777, want: "chmod go-w"},
		{name: "a group may write above", level: "a/b", mode: 0o775, want: "chmod go-w"},
		{name: "sticky above", level: "a/b", mode: 0o777 | os.ModeSticky},
		{name: "sticky itself", level: "a/b/c", mode: 0o777 | os.ModeSticky, want: "chmod go-w"},
		{name: "a link above", level: "a", link: true, want: "name the directory itself: "},
		{name: "a link itself", level: "a/b/c", link: true, want: "name the directory itself: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := t.TempDir()
			dir, level := filepath.Join(base, "a/b/c"), filepath.Join(base, c.level)
			must(t, Ensure(dir))
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("made %v, %v", info, err)
			}
			if c.link {
				must(t, os.Rename(level, level+".real"))
				must(t, os.Symlink(level+".real", level))
			} else {
				must(t, os.Chown(level, c.uid, 0))
				chmod(t, level, c.mode)
			}
			for what, f := range map[string]func() error{
				"check":  func() error { return Check(dir) },
				"ensure": func() error { return Ensure(dir) },
				"below":  func() error { return Replace(filepath.Join(dir, "file"), func(*os.File) error { return nil }) },
			} {
				err, bad := f(), (*Error)(nil)
				if errors.As(err, &bad) != (c.want != "") || bad != nil && (bad.Path != level || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s: %v, want %q about %s", what, err, c.want, level)
				}
			}
		})
	}
	if err := Check(filepath.Join(t.TempDir(), "absent", "too")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

// TestFiles: what somebody left under a file's name is not read, written
// through or waited for.
func TestFiles(t *testing.T) {
	testenv.RequireRoot(t)
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "file")
	put := func(text string) func(*os.File) error {
		return func(f *os.File) error { _, err := f.WriteString(text); return err }
	}
	must(t, os.WriteFile(victim, []byte("victim"), 0o600))
	for name, plant := range map[string]func(at string) error{
		"a link": func(at string) error { return os.Symlink(victim, at) },
		"a FIFO": func(at string) error { return unix.Mkfifo(at, 0o600) },
		"another's": func(at string) error {
			return errors.Join(os.WriteFile(at, []byte("x"), 0o600), os.Chown(at, nobody, 0))
		},
		"all's":        func(at string) error { return errors.Join(os.WriteFile(at, []byte("x"), 0o600), os.Chmod(at, 0o666)) },
		"a group's":    func(at string) error { return errors.Join(os.WriteFile(at, []byte("x"), 0o600), os.Chmod(at, 0o660)) },
		"nothing":      func(string) error { return nil },
		"a descriptor": func(at string) error { return unix.Mknod(at, unix.S_IFCHR|0o600, 1<<8|3) },
	} {
		must(t, plant(path))
		bad := (*Error)(nil)
		if got, err := ReadFile(path); name != "nothing" && !errors.As(err, &bad) {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
		must(t, plant(path+NewSuffix))
		must(t, Replace(path, put(name)))
		if got, err := ReadFile(path); err != nil || string(got) != name {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		must(t, os.Remove(path))
	}
	if got, err := os.ReadFile(victim); string(got) != "victim" {
		t.Errorf("written through a link: %q, %v", got, err)
	}
	if _, err := ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	must(t, Replace(path, put("old")))
	if err := Replace(path, func(*os.File) error { return unix.ENOSPC }); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if got, err := ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("after a write that failed: %q, %v", got, err)
	}
}

// TestSticky: in a BPF file system with the kernel's default mode the sticky
// bit keeps others from what egressd made; a name that they took first is
// refused.
func TestSticky(t *testing.T) {
	testenv.RequireRoot(t)
	fs := testenv.BPFFS(t)
	chmod(t, filepath.Dir(fs), 0o755) // nobody has to get there
	chmod(t, fs, 0o777|os.ModeSticky)
	as := func(script string) error {
		c := exec.Command("sh", "-c", script, "sh", fs)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return c.Run()
	}
	must(t, Ensure(filepath.Join(fs, "egressd", "node")))
	for _, attack := range []string{`mv "$1"/egressd "$1"/gone`, `rmdir "$1"/egressd`, `mkdir "$1"/egressd/exec-1`, `mv "$1"/egressd/node "$1"/node`, `ls "$1"/egressd`} {
		if as(attack) == nil {
			t.Errorf("%s: it worked", attack)
		}
	}
	must(t, Check(filepath.Join(fs, "egressd", "node")))
	// The twins: without the sticky bit, and with a name that was taken first.
	chmod(t, fs, 0o777)
	must(t, as(`mv "$1"/egressd "$1"/gone`))
	chmod(t, fs, 0o777|os.ModeSticky)
	must(t, as(`mkdir -p "$1"/egressd/node`))
	bad := (*Error)(nil)
	if err := Ensure(filepath.Join(fs, "egressd", "node")); !errors.As(err, &bad) || bad.Path != filepath.Join(fs, "egressd") {
		t.Errorf("a directory of somebody else: %v", err)
	}
}
