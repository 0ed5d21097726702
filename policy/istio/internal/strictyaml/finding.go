// SPDX-License-Identifier: Apache-2.0

package strictyaml

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
	// Code is the stable name of what it says; "": it has none.
	Code string `json:"code,omitempty"`
}

// String is the finding in the form of compilers:
// file:line:col: severity: text [object] (code). It is one line, fit for a
// terminal.
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
	if f.Code != "" {
		fmt.Fprintf(&b, " (%s)", f.Code)
	}
	return quote.Line(b.String())
}

// Report gathers findings.
type Report struct {
	Findings []Finding
	Order    map[string]int // order of the files, for sorting
	Errors   int
	Types    Types
	// Hint says what to write where a value of another type is wanted; nil:
	// nothing is said.
	Hint func(n *Node, where, want string) string
	// ProtoNamed says whether a schema has a field in the spelling of the
	// .proto file, as few do; nil: none is.
	ProtoNamed func(key string) bool
	// Code is the code of a finding by the format of its text; nil: none has one.
	Code func(s Severity, format string) string
	// Unreadable are the values that could not be decoded.
	Unreadable map[Spot]bool
}

func (r *Report) hintOf(n *Node, where, want string) string {
	if r.Hint == nil {
		return ""
	}
	return r.Hint(n, where, want)
}

func (r *Report) isProtoNamed(key string) bool { return r.ProtoNamed != nil && r.ProtoNamed(key) }

// Spot is the place of a value in an object.
type Spot struct {
	file, object string
	line, col    int
}

// unread notes that the value at n could not be decoded. A zero value stands
// for it, whose own faults are not those of the file.
func (r *Report) unread(p *Reporter, n *Node) { r.UnreadAt(Spot{p.File, p.Object, n.Line, n.Col}) }

// UnreadAt notes that the value at s could not be decoded.
func (r *Report) UnreadAt(s Spot) {
	if r.Unreadable == nil {
		r.Unreadable = map[Spot]bool{}
	}
	r.Unreadable[s] = true
}

// Add adds a finding.
func (r *Report) Add(f Finding) {
	if f.Severity == Error {
		r.Errors++
	}
	r.Findings = append(r.Findings, f)
}

// AddAll adds findings, in their order.
func (r *Report) AddAll(findings []Finding) {
	for _, f := range findings {
		r.Add(f)
	}
}

// Sorted returns findings in reading order, without repetitions. It takes
// the list.
func (r *Report) Sorted(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		if a.File == b.File {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
		}
		return cmp.Compare(r.Order[a.File], r.Order[b.File])
	})
	return slices.Compact(findings)
}

// Reporter says what there is to say of one document or object.
type Reporter struct {
	Report *Report
	File   string
	Object string
	// Suppress holds the codes of warnings and notes that are not to be reported.
	Suppress string
}

// Passage is a place in an object, and who speaks of it.
type Passage struct {
	*Reporter
	Node *Node
}

// Unreadable says whether the value at n could not be decoded.
func (p *Reporter) Unreadable(n *Node) bool {
	return n != nil && p.Report.Unreadable[Spot{p.File, p.Object, n.Line, n.Col}]
}

// Say reports something about the value at n; nil: about the file as a whole.
// What args are of a file is quoted and cut, fit for a terminal. Nothing is said
// of a value that could not be decoded: that has been said.
func (p *Reporter) Say(s Severity, n *Node, format string, args ...any) {
	code := ""
	if p.Report.Code != nil {
		code = p.Report.Code(s, format)
	}
	p.SayCode(code, s, n, format, args...)
}

// SayCode is Say for a text that does not tell the code.
func (p *Reporter) SayCode(code string, s Severity, n *Node, format string, args ...any) {
	if s != Error && code != "" && strings.Contains(p.Suppress, code) {
		return
	}
	f := Finding{Severity: s, Code: code, File: p.File, Object: quote.Cut(p.Object), Text: quote.Text(fmt.Sprintf(format, quote.Args(args)...))}
	if n != nil {
		f.Line, f.Col = n.Line, n.Col
	}
	if p.Unreadable(n) {
		return
	}
	p.Report.Add(f)
}

// Errorf reports an Error at n.
func (p *Reporter) Errorf(n *Node, format string, args ...any) { p.Say(Error, n, format, args...) }

// Warnf reports a Warning at n.
func (p *Reporter) Warnf(n *Node, format string, args ...any) { p.Say(Warning, n, format, args...) }

// Unsupported reports something that restricts or redirects and is not acted
// on. Running without it would enforce less than the author wrote.
func (p *Reporter) Unsupported(n *Node, what string) {
	p.Errorf(n, "%s is not supported yet; egressd refuses to run with a rule that it would not enforce", what)
}

// Inert reports something that only decorates and is not acted on.
func (p *Reporter) Inert(n *Node, what string) { p.Warnf(n, "%s is not acted on yet", what) }

// Denied names what egressd can't do yet, so that it denies what asks for it.
func (p *Reporter) Denied(n *Node, what string) {
	p.Warnf(n, "%s is not done yet: what it applies to is denied (not-supported)", what)
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
