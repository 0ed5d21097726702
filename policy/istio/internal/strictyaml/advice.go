// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// Unrendered says what a template is and what to do.
const Unrendered = "a template that was not rendered: render it first (helm template, kustomize build, envsubst) and give egressd what comes out"

var templateForm = regexp.MustCompile(`\{\{|\{%|<%|\$\{|\$\(|^\$[A-Za-z_]`)

// IsUnrendered says whether a value is for a template language to fill in.
func IsUnrendered(s string) bool { return templateForm.MatchString(s) }

// advice is what to say in the place of an error of the YAML library, and
// where, for mistakes that are made often.
func (c Chunk) advice(at *Node, text string) (*Node, string) {
	lines := bytes.Split(c.Text, []byte("\n"))
	point := func(line, col int, text string) (*Node, string) {
		return &Node{Line: c.Line + line + 1, Col: col + 1}, text
	}
	for i, l := range lines {
		if bytes.HasPrefix(l, []byte("<<<<<<< ")) {
			return point(i, 0, "a merge conflict was left in the file: decide for one side and remove the markers")
		}
	}
	for i, l := range lines {
		if !bytes.Contains(l, []byte("{{")) {
			continue
		}
		if m := plainTemplate.FindSubmatchIndex(l); m != nil {
			return point(i, m[2], "{{ begins "+Unrendered)
		}
	}
	at = &Node{Line: at.Line, Col: at.Col}
	i := at.Line - c.Line - 1
	if i < 0 || i >= len(lines) {
		return at, text
	}
	l := lines[i]
	if tabError.MatchString(text) {
		for j := max(i-1, 0); j < min(i+2, len(lines)); j++ { // the library names the line before, at times
			indent := lines[j][:len(lines[j])-len(bytes.TrimLeft(lines[j], " \t"))]
			if tab := bytes.IndexByte(indent, '\t'); tab >= 0 {
				return point(j, tab, "a tab in the indentation: YAML takes only spaces there; replace it")
			}
		}
	}
	switch {
	case aliasError.MatchString(text):
		if m := plainStar.FindSubmatchIndex(l); m != nil {
			value := l[m[2]:m[3]]
			hint := fmt.Sprintf("a value that begins with * must stand in quotes, for YAML takes it for an alias: write %q with the quotes", value)
			if strings.HasPrefix(text, "unknown anchor") {
				hint += fmt.Sprintf(", or define &%s", value[1:])
			}
			return point(i, m[2], hint)
		}
	case indentError.MatchString(text):
		return at, text + "; see whether this line and those around it are indented alike"
	case strings.HasPrefix(text, "mapping values are not allowed"):
		return at, text + "; see whether the line is indented as those around it, and put a value with a colon and a space in quotes"
	}
	return at, text
}

var (
	tabError    = regexp.MustCompile(`cannot start any token|tab character|did not find expected|could not find expected`)
	aliasError  = regexp.MustCompile(`expected alphabetic or numeric character|^unknown anchor`)
	indentError = regexp.MustCompile(`^did not find expected ('-' indicator|key)`)
	// plainTemplate finds a line or a value that begins with a template; within
	// a value a template is good YAML.
	plainTemplate = regexp.MustCompile(`(?:^\s*|^[^#"']*[-:]\s+)(\{\{)`)
	// plainStar finds a value that begins with a star.
	plainStar = regexp.MustCompile(`(?:^|[-:,\[]\s*)(\*[^\s,\]]*)`)
)
