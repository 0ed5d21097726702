// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/quote"
)

// Severity says what a Finding means for the configuration.
type Severity uint8

// The severities. The zero value is the gravest.
const (
	// Error: the configuration is refused as a whole.
	Error Severity = iota
	// Warning: the configuration is used, but probably does not do what its
	// author thinks.
	Warning
	// Note: something was left out on purpose, such as a foreign kind.
	Note
)

var severityNames = [...]string{"error", "warning", "note"}

// String is the severity's name in lower case.
func (s Severity) String() string {
	if int(s) < len(severityNames) {
		return severityNames[s]
	}
	return "error"
}

// MarshalText writes the severity's name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one thing to say about a configuration file. Line and Col count
// from 1, Col in bytes; 0 means unknown.
type Finding struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	Line     int      `json:"line,omitempty"`
	Col      int      `json:"col,omitempty"`
	// Object is "Kind namespace/name", or "" outside of objects.
	Object string `json:"object,omitempty"`
	Text   string `json:"text"`
}

// String is the finding in the form of compilers:
// file:line:col: severity: text [object]. It is one line, fit for a terminal.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
		if f.Col > 0 {
			fmt.Fprintf(&b, ":%d", f.Col)
		}
	}
	fmt.Fprintf(&b, ": %s: %s", f.Severity, f.Text)
	if f.Object != "" {
		fmt.Fprintf(&b, " [%s]", f.Object)
	}
	return quote.Line(b.String())
}

// report gathers findings.
type report struct {
	findings []Finding
	files    map[string]int // order of the files, for sorting
	errors   int
	types    types
	// hint says what to write where a value of another type is wanted; nil:
	// nothing is said.
	hint func(n *node, where, want string) string
	// protoNamed says whether a schema has a field in the spelling of the
	// .proto file, as few do; nil: none is.
	protoNamed func(key string) bool
	// unreadable are the values that could not be decoded.
	unreadable map[spot]bool
}

func (r *report) hintOf(n *node, where, want string) string {
	if r.hint == nil {
		return ""
	}
	return r.hint(n, where, want)
}

func (r *report) isProtoNamed(key string) bool { return r.protoNamed != nil && r.protoNamed(key) }

// spot is the place of a value in an object.
type spot struct {
	file, object string
	line, col    int
}

// unread notes that the value at n could not be decoded. A zero value stands
// for it, whose own faults are not those of the file.
func (r *report) unread(p *place, n *node) { r.unreadAt(spot{p.file, p.object, n.line, n.col}) }

func (r *report) unreadAt(s spot) {
	if r.unreadable == nil {
		r.unreadable = map[spot]bool{}
	}
	r.unreadable[s] = true
}

func (r *report) add(f Finding) {
	if f.Severity == Error {
		r.errors++
	}
	r.findings = append(r.findings, f)
}

func (r *report) addAll(findings []Finding) {
	for _, f := range findings {
		r.add(f)
	}
}

// sorted returns findings in reading order, without repetitions. It takes
// the list.
func (r *report) sorted(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		if a.File == b.File {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
		}
		return cmp.Compare(r.files[a.File], r.files[b.File])
	})
	return slices.Compact(findings)
}

// place is where findings of one document or object go.
type place struct {
	r      *report
	file   string
	object string
}

// unreadable says whether the value at n could not be decoded.
func (p *place) unreadable(n *node) bool {
	return n != nil && p.r.unreadable[spot{p.file, p.object, n.line, n.col}]
}

func (p *place) say(s Severity, n *node, format string, args ...any) {
	f := Finding{Severity: s, File: p.file, Object: quote.Cut(p.object), Text: quote.Text(fmt.Sprintf(format, quote.Args(args)...))}
	if n != nil {
		f.Line, f.Col = n.line, n.col
	}
	if p.unreadable(n) {
		return
	}
	p.r.add(f)
}

func (p *place) errorf(n *node, format string, args ...any) { p.say(Error, n, format, args...) }
func (p *place) warnf(n *node, format string, args ...any)  { p.say(Warning, n, format, args...) }

// unsupported reports something that restricts or redirects and is not acted
// on. Running without it would enforce less than the author wrote.
func (p *place) unsupported(n *node, what string) {
	p.errorf(n, "%s is not supported yet; egressd refuses to run with a rule that it would not enforce", what)
}

// inert reports something that only decorates and is not acted on.
func (p *place) inert(n *node, what string) { p.warnf(n, "%s is not acted on yet", what) }

// denied names what egressd can't do yet, so that it denies what asks for it.
func (p *place) denied(n *node, what string) {
	p.warnf(n, "%s is not done yet: what it applies to is denied (not-supported)", what)
}

// UnmarshalText reads what MarshalText writes.
func (s *Severity) UnmarshalText(text []byte) error {
	for _, known := range []Severity{Error, Warning, Note} {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("unknown severity %q", text)
}
