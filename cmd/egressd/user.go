// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/egressd/egressd/agent/exec"
)

// nobodysGroup is the group of a uid that has no entry in the user database:
// the kernel's overflow gid, which owns nothing.
const nobodysGroup = 65534

// account is who a command runs as.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

// userOf finds out who a command runs as: NAME, UID, NAME:GROUP or UID:GID;
// without one who called sudo. nil: nobody was named, so it is root.
func userOf(spec string, getenv func(string) string) (*account, error) {
	if spec == "" {
		caller := getenv("SUDO_USER")
		if caller == "" {
			return nil, nil
		}
		a, err := accountOf(caller)
		if err != nil {
			return nil, fmt.Errorf("sudo was called by %q, who is not known here; say with --user who runs the command: %w", caller, err)
		}
		if a.uid == 0 {
			return nil, nil
		}
		return a, nil
	}
	name, group, withGroup := strings.Cut(spec, ":")
	a, err := accountOf(name)
	if err != nil {
		return nil, fmt.Errorf("--user: %w", err)
	}
	if withGroup {
		if a.gid, err = gidOf(group); err != nil {
			return nil, fmt.Errorf("--user: %w", err)
		}
	}
	return a, nil
}

// accountOf looks up a user by name, then by number.
func accountOf(name string) (*account, error) {
	u, err := user.Lookup(name)
	uid, parseErr := number(name)
	if err != nil && parseErr == nil {
		u, err = user.LookupId(strconv.FormatUint(uint64(uid), 10))
	}
	if unknown := user.UnknownUserIdError(0); errors.As(err, &unknown) {
		// A number without an entry is somebody all the same.
		return &account{name: name, home: "/", shell: defaultShell, uid: uid, gid: nobodysGroup}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("no user %q", name)
	}
	a := &account{name: u.Username, home: u.HomeDir, shell: shellOf(u.Username)}
	if a.uid, err = number(u.Uid); err != nil {
		return nil, err
	}
	if a.gid, err = number(u.Gid); err != nil {
		return nil, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("the groups of %s: %w", name, err)
	}
	for _, g := range groups {
		gid, err := number(g)
		if err != nil {
			return nil, err
		}
		a.groups = append(a.groups, gid)
	}
	return a, nil
}

// gidOf looks up a group by name, then by number.
func gidOf(name string) (uint32, error) {
	if g, err := user.LookupGroup(name); err == nil {
		return number(g.Gid)
	}
	gid, err := number(name)
	if err != nil {
		return 0, fmt.Errorf("no group %q", name)
	}
	return gid, nil
}

// number reads a uid or gid. The highest one is none: setuid(2) and the like
// take it for "leave it as it is".
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = fmt.Errorf("%s is no user or group", s)
	}
	return uint32(n), err
}

const (
	passwdFile   = "/etc/passwd"
	defaultShell = "/bin/sh"
)

// shellOf is the login shell of a user (passwd(5)), which os/user leaves out.
func shellOf(name string) string {
	f, err := os.Open(passwdFile)
	if err != nil {
		return defaultShell
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Split(s.Text(), ":"); len(fields) == 7 && fields[0] == name {
			return cmp.Or(fields[6], defaultShell)
		}
	}
	return defaultShell
}

// run makes a command run as the account; nil: as the caller. environment is
// the caller's.
func (a *account) run(o *exec.Options, environment []string, newPrivileges bool) {
	if a == nil {
		return
	}
	o.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
	// Root needs no new privileges to leave.
	o.NoNewPrivileges = a.uid != 0 && !newPrivileges
	o.Env = append(environment, "HOME="+a.home, "USER="+a.name, "LOGNAME="+a.name, "SHELL="+a.shell)
}
