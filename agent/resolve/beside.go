// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// besideDNS are the sockets by which libc has names resolved without a
// question on port 53. Whoever answers there asks in its own name: what it is
// told is not learned for the program, and under exec it is not captured. All
// are optional: libc goes on to DNS when nobody is there. (That of sssd is
// not among them. It serves users and groups, for which there is nothing else.)
var besideDNS = []ResolverSocket{
	{"/run/nscd/socket", "set enable-cache hosts no in /etc/nscd.conf"},
	{"/run/systemd/resolve/io.systemd.Resolve", "take resolve out of the line hosts: in /etc/nsswitch.conf"},
	{"/run/avahi-daemon/socket", "take mdns out of the line hosts: in /etc/nsswitch.conf"},
}

// ResolverSocket is one of these.
type ResolverSocket struct{ path, remedy string }

// Beside lists those of besideDNS that are there, by their real paths
// below root.
func Beside(root string) []ResolverSocket {
	var out []ResolverSocket
	for _, s := range besideDNS {
		path, err := filepath.EvalSymlinks(filepath.Join(root, s.path))
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
			out = append(out, ResolverSocket{path, s.remedy})
		}
	}
	return out
}

// WarnBeside says which programs of this node may resolve names without DNS.
func WarnBeside(log *slog.Logger, found []ResolverSocket) {
	if len(found) == 0 {
		return
	}
	paths, remedies := make([]string, len(found)), make([]string, len(found))
	for i, s := range found {
		paths[i], remedies[i] = s.path, s.remedy
	}
	log.Warn("programs can resolve names through a local socket instead of DNS; the service behind it asks for them: if it is not captured, it asks for any name, and if it has another policy, the program is refused at the address",
		"sockets", strings.Join(paths, " "), "remedy", strings.Join(remedies, "; "))
}

// Hide covers the sockets for the calling thread and what it starts, in a
// mount namespace of its own: connect(2) to them is ECONNREFUSED. The
// goroutine must be locked to the thread and not be unlocked again. Mounts
// that others make are still seen, those of the command stay in it.
func Hide(found []ResolverSocket) error {
	if len(found) == 0 {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	var errs []error
	for _, s := range found {
		if err := unix.Mount(os.DevNull, s.path, "", unix.MS_BIND, ""); err != nil {
			errs = append(errs, fmt.Errorf("cover %s: %w", s.path, err))
		}
	}
	return errors.Join(errs...)
}
