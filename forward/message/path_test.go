// SPDX-License-Identifier: Apache-2.0

package message

import "testing"

func TestClimbs(t *testing.T) {
	for path, want := range map[string]bool{
		"/": false, "/a/b": false, "/a/./b": false, "/a..b/..c/d..": false, "/...": false,
		"/.well-known/x": false, "/@scope%2fname": false, "/%20/%2e/x": false, "": false,
		"/..": true, "/a/../b": true, "/a/%2e%2E/b": true, "/a/.%2e": true, "/a/..%2fb": true,
		"/a%2F..%2Fb": true, `/a/..\b`: true, `/a%5c..%5Cb`: true, "/a/..;x=1/b": true, "*": false,
	} {
		if got := hasDotDot(path); got != want {
			t.Errorf("climbs(%q) = %t", path, got)
		}
	}
}
