// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestReadNode: what resolv.conf(5) has, of one file and of several.
func TestReadNode(t *testing.T) {
	tests := []struct {
		name  string
		files []string // "": not there
		want  string
		fails bool
	}{
		{"both families", []string{"nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.test b.test\n"}, "[192.0.2.1:53 [2001:db8::1]:53] [a.test b.test] 0s 0", false},
		{"options", []string{"nameserver 192.0.2.1\noptions ndots:5 timeout:3 attempts:4 rotate\n"}, "[192.0.2.1:53] [] 3s 4", false},
		{"the last one counts", []string{"options timeout:3\nnameserver 192.0.2.1\noptions timeout:4\n"}, "[192.0.2.1:53] [] 4s 0", false},
		{"no more than libc takes", []string{"nameserver 192.0.2.1\noptions timeout:90 attempts:90\n"}, "[192.0.2.1:53] [] 30s 5", false},
		{"nonsense in options", []string{"nameserver 192.0.2.1\noptions timeout:x attempts:0 timeout\n"}, "[192.0.2.1:53] [] 0s 0", false},
		{"a comment", []string{"# nameserver 192.0.2.9\n; options timeout:9\nnameserver 192.0.2.1\n"}, "[192.0.2.1:53] [] 0s 0", false},
		{"a stub and what is behind it", []string{"nameserver 127.0.0.53\nsearch a.test\noptions timeout:1\n", "nameserver 192.0.2.1\nnameserver 127.0.0.53\nsearch a.test c.test\noptions timeout:5 attempts:2\n"},
			"[127.0.0.53:53 192.0.2.1:53] [a.test c.test] 1s 2", false},
		{"one is not there", []string{"", "nameserver 192.0.2.1\n"}, "[192.0.2.1:53] [] 0s 0", false},
		{"none is", []string{""}, "[] [] 0s 0", false},
		{"a name for an address", []string{"nameserver ns.example\nnameserver 192.0.2.1\n"}, "[192.0.2.1:53] [] 0s 0", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var files []string
			for i, text := range tt.files {
				file := filepath.Join(t.TempDir(), fmt.Sprint(i))
				files = append(files, file)
				if text == "" {
					continue
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			u, err := ReadNode(files)
			if got := fmt.Sprint(u.Servers, u.Search, u.Timeout, u.Attempts); got != tt.want || (err != nil) != tt.fails {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
		})
	}
	if _, err := ReadNode([]string{t.TempDir()}); err == nil {
		t.Error("a directory is read")
	}
}
