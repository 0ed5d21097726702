// SPDX-License-Identifier: Apache-2.0

package container

import (
	"cmp"
	"strings"

	"github.com/egressd/egressd/policy/config"
)

// Description is what a runtime tells of a container. Nothing of it can be changed from
// within the container.
type Description struct {
	Runtime Runtime           `json:"runtime"`
	Name    string            `json:"name"`
	Image   string            `json:"image"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Selects says whether a selector selects a container.
func Selects(s config.ContainerSelector, d Description) bool {
	if s.Runtime != "" && s.Runtime != string(d.Runtime) {
		return false
	}
	if s.Name != "" && !Match(s.Name, d.Name) {
		return false
	}
	if s.Image != "" && !matchImage(s.Image, d.Image) {
		return false
	}
	for k, v := range s.Labels {
		if is, ok := d.Labels[k]; !ok || is != v {
			return false
		}
	}
	return true
}

// CompareSelectors orders selectors, the more specific first: who asks for a name before
// who asks for none, then who has fewer wildcards in it, then the same of the image, then
// who asks for more labels.
func CompareSelectors(a, b config.ContainerSelector) int {
	return cmp.Or(compareText(a.Name, b.Name), compareText(a.Image, b.Image), cmp.Compare(len(b.Labels), len(a.Labels)),
		compareText(a.Runtime, b.Runtime), cmp.Compare(a.String(), b.String()))
}

func compareText(a, b string) int {
	rank := func(s string) int {
		if s == "" {
			return 1 << 20
		}
		return strings.Count(s, "*")
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(len(strings.ReplaceAll(b, "*", "")), len(strings.ReplaceAll(a, "*", ""))))
}

// Match says whether a text is what a pattern says, in which '*' stands for any
// characters.
func Match(pattern, text string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	for { // each part between two stars is where it is found first
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(text, part)
		}
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text, rest = text[at+len(part):], after
	}
}

// matchImage compares the names of images, both with what their short forms leave out.
// '*' stands for no slash, so that it can't be another registry or repository; a pattern
// without a tag and a digest is any version.
func matchImage(pattern, image string) bool {
	if image == "" {
		return false
	}
	repo, version := splitImage(pattern)
	isRepo, isVersion := splitImage(image)
	if isVersion == "" {
		isVersion = ":latest" // which is what was started
	}
	if version != "" && !Match(version, isVersion) {
		return false
	}
	return matchRepo(repo, isRepo)
}

// matchRepo compares repositories segment by segment.
func matchRepo(pattern, repo string) bool {
	a, b := strings.Split(fullRepo(pattern), "/"), strings.Split(fullRepo(repo), "/")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !Match(a[i], b[i]) {
			return false
		}
	}
	return true
}

// splitImage parts the version, ":tag", "@digest" or both, from the repository.
func splitImage(image string) (repo, version string) {
	if at := strings.IndexByte(image, '@'); at >= 0 {
		image, version = image[:at], image[at:]
	}
	if at := strings.LastIndexByte(image, ':'); at > strings.LastIndexByte(image, '/') {
		image, version = image[:at], image[at:]+version
	}
	return image, version
}

// fullRepo adds what the short form of a repository leaves out (distribution/reference):
// docker.io is the registry unless the first part is a host's name, and library the
// organization.
func fullRepo(repo string) string {
	first, _, more := strings.Cut(repo, "/")
	switch {
	case !more:
		return "docker.io/library/" + repo
	case !strings.ContainsAny(first, ".:*") && first != "localhost":
		return "docker.io/" + repo
	case first == "docker.io" && strings.Count(repo, "/") == 1:
		return "docker.io/library/" + strings.TrimPrefix(repo, "docker.io/")
	}
	return repo
}
