// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/connlimit"
	"github.com/egressd/egressd/internal/testenv"
)

// user is who connects: groups has the primary one first.
type user struct {
	uid    uint32
	groups []uint32
}

// dialAs connects to a unix socket as somebody else.
func dialAs(path string, u user) (net.Conn, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its credentials
		fd, err := -1, error(nil)
		call := func(trap, a, b, c uintptr) {
			if _, _, errno := unix.RawSyscall(trap, a, b, c); errno != 0 && err == nil {
				err = errno
			}
		}
		if u.uid != 0 {
			more := append(u.groups[1:len(u.groups):len(u.groups)], 0) // has an address also when there are none
			call(unix.SYS_SETGROUPS, uintptr(len(more)-1), uintptr(unsafe.Pointer(&more[0])), 0)
			call(unix.SYS_SETRESGID, uintptr(u.groups[0]), uintptr(u.groups[0]), uintptr(u.groups[0]))
			call(unix.SYS_SETRESUID, uintptr(u.uid), uintptr(u.uid), uintptr(u.uid))
		}
		if err == nil {
			fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		done <- result{fd, err}
	}()
	r := <-done
	if r.fd < 0 {
		return nil, r.err
	}
	f := os.NewFile(uintptr(r.fd), path)
	defer f.Close()
	if r.err != nil {
		return nil, r.err
	}
	return net.FileConn(f)
}

// requestAs is the status of a request that somebody makes; 0: the kernel lets
// them not connect.
func requestAs(t *testing.T, path string, u user, method, what string) int {
	t.Helper()
	c, err := dialAs(path, u)
	if errors.Is(err, unix.EACCES) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, method+" "+what+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestAdminPeers: root may do everything at the admin socket, the admin group
// may read, and nobody else gets there; if they do all the same, they are told
// nothing.
func TestAdminPeers(t *testing.T) {
	testenv.RequireRoot(t)
	const group = 54321
	root, stranger := user{}, user{65534, []uint32{65534}}
	member, primary := user{65533, []uint32{65533, 7, group, 8}}, user{65532, []uint32{group}}
	var many user // more groups than the first answer of the kernel has room for
	many.uid, many.groups = 65531, []uint32{65531}
	for i := range uint32(300) {
		many.groups = append(many.groups, 60000+i)
	}
	many.groups = append(many.groups, group)
	for _, c := range []struct {
		name        string
		group       uint32
		open        bool // the file system lets everybody in
		who         user
		get, unload int
	}{
		{"root", 0, false, root, 200, 202}, {"root, with a group", group, false, root, 200, 202},
		{"member", group, false, member, 200, 403}, {"member by its primary group", group, false, primary, 200, 403},
		{"member of many groups", group, false, many, 200, 403},
		{"member, no admin group", 0, false, member, 0, 0}, {"member, no admin group, open", 0, true, member, 403, 403},
		{"stranger", group, false, stranger, 0, 0}, {"stranger, no admin group", 0, false, stranger, 0, 0},
		{"stranger, open", group, true, stranger, 403, 403}, {"stranger, no admin group, open", 0, true, stranger, 403, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			top, err := os.MkdirTemp("", "admin")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(top) })
			dir := filepath.Join(top, "state")
			if err := errors.Join(os.Chmod(top, 0o755), os.Mkdir(dir, 0o700)); err != nil {
				t.Fatal(err)
			}
			unload := make(chan struct{})
			mux := http.NewServeMux()
			mux.HandleFunc("GET /flows", func(http.ResponseWriter, *http.Request) {})
			mux.HandleFunc("POST /unload", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusAccepted)
				close(unload)
			})
			o := Options{StateDir: dir, Group: c.group, Log: slog.New(slog.DiscardHandler)}
			socket, err := o.socket()
			if err != nil {
				t.Fatal(err)
			}
			path := socket.Addr().String()
			if c.open {
				if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
					t.Fatal(err)
				}
			}
			var serving sync.WaitGroup
			defer serving.Wait()
			defer socket.Close()
			serving.Go(func() {
				ln := connlimit.New(peers{socket, 0}, MaxConns, 0)
				_ = HTTP(t.Context(), ln, onlyFor(c.group, mux)) // it ends when the socket closes
			})
			if got := requestAs(t, path, c.who, "GET", "/flows"); got != c.get {
				t.Errorf("GET: %d, want %d", got, c.get)
			}
			if got := requestAs(t, path, c.who, "POST", "/unload"); got != c.unload {
				t.Errorf("POST /unload: %d, want %d", got, c.unload)
			}
			select {
			case <-unload:
				if c.unload != 202 {
					t.Error("it unloads")
				}
			default:
				if c.unload == 202 {
					t.Error("it does not unload")
				}
			}
		})
	}
}
