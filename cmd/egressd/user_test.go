// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/user"
	"slices"
	"testing"

	"github.com/egressd/egressd/agent/exec"
)

func TestUserOf(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	gid, err := number(nobody.Gid)
	if err != nil {
		t.Fatal(err)
	}
	unknown := "4000000017"
	if u, err := user.LookupId(unknown); err == nil {
		t.Fatalf("%s is %s here", unknown, u.Username)
	}
	for _, c := range []struct {
		spec, sudo string
		want       *account // name, home, uid and gid count
		fails      bool
	}{
		{spec: "", want: nil},
		{sudo: "root", want: nil},
		{sudo: "nobody", want: &account{name: "nobody", home: nobody.HomeDir, uid: 65534, gid: gid}},
		{sudo: "no-such-user", fails: true},
		{spec: "root", sudo: "nobody", want: &account{name: "root", home: "/root"}},
		{spec: "nobody", want: &account{name: "nobody", home: nobody.HomeDir, uid: 65534, gid: gid}},
		{spec: "65534", want: &account{name: "nobody", home: nobody.HomeDir, uid: 65534, gid: gid}},
		{spec: "nobody:daemon", want: &account{name: "nobody", home: nobody.HomeDir, uid: 65534, gid: 1}},
		{spec: "nobody:77", want: &account{name: "nobody", home: nobody.HomeDir, uid: 65534, gid: 77}},
		{spec: unknown, want: &account{name: unknown, home: "/", uid: 4000000017, gid: 65534}},
		{spec: unknown + ":88", want: &account{name: unknown, home: "/", uid: 4000000017, gid: 88}},
		{spec: "no-such-user", fails: true},
		{spec: "nobody:no-such-group", fails: true},
		{spec: "nobody:", fails: true},
		{spec: ":daemon", fails: true},
		{spec: "-1", fails: true},
		{spec: "4294967295", fails: true}, // for setuid(2): as it is
		{spec: "nobody:4294967295", fails: true},
		{spec: "4294967296", fails: true},
	} {
		got, err := userOf(c.spec, func(string) string { return c.sudo })
		if (err != nil) != c.fails || (got == nil) != (c.want == nil) {
			t.Errorf("%q, called by %q: %+v, %v", c.spec, c.sudo, got, err)
			continue
		}
		if got != nil && (got.name != c.want.name || got.home != c.want.home || got.uid != c.want.uid || got.gid != c.want.gid || got.shell == "") {
			t.Errorf("%q, called by %q: %+v, want %+v", c.spec, c.sudo, got, c.want)
		}
	}
}

func TestAccountRun(t *testing.T) {
	for _, c := range []struct {
		a       *account
		allowed bool
		noNew   bool
	}{
		{nil, false, false},
		{&account{name: "root"}, false, false},
		{&account{name: "joe", home: "/home/joe", shell: "/bin/zsh", uid: 7, gid: 8, groups: []uint32{8, 9}}, false, true},
		{&account{name: "joe", home: "/home/joe", shell: "/bin/zsh", uid: 7, gid: 8}, true, false},
	} {
		var o exec.Options
		c.a.run(&o, []string{"HOME=/root", "A=b"}, c.allowed)
		if o.NoNewPrivileges != c.noNew || (o.Credential == nil) != (c.a == nil) {
			t.Errorf("%+v: %+v", c.a, o)
		}
		if c.a != nil && (!slices.Contains(o.Env, "HOME="+c.a.home) || !slices.Contains(o.Env, "A=b") || !slices.Equal(o.Credential.Groups, c.a.groups) ||
			o.Credential.Gid != c.a.gid) {
			t.Errorf("%+v: %+v", c.a, o)
		}
	}
}
