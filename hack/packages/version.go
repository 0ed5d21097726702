// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

var (
	// described is what "git describe" prints where there is a tag: v0.1.0, v0.1.0-3-g1c4b006.
	described = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(?:-(\d+)-g([0-9a-f]+))?$`)
	heading   = regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+)`)
	odd       = regexp.MustCompile(`[^A-Za-z0-9.]+`)
)

// packageVersion is a version by the rules of dpkg and of rpm: it begins with a number,
// and what is newer sorts behind. next is the version that a build without a tag is on
// its way to: it sorts before that.
func packageVersion(version string, at time.Time, next string) string {
	clean, dirty := strings.CutSuffix(version, "-dirty")
	changed := ""
	if dirty {
		changed = ".dirty"
	}
	m := described.FindStringSubmatch(clean)
	switch {
	case m == nil:
		return next + "~" + at.Format("20060102150405") + "." + odd.ReplaceAllString(clean, ".") + changed
	case m[2] != "":
		return m[1] + "+" + m[2] + "." + m[3] + changed
	case dirty:
		return m[1] + "+dirty"
	}
	return m[1]
}

// newest is the newest version that the changelog has.
func (r *release) newest() string {
	text, err := os.ReadFile(filepath.Join(r.top, "CHANGELOG.md"))
	if m := heading.FindSubmatch(text); err == nil && m != nil {
		return string(m[1])
	}
	return "0.0.0"
}
