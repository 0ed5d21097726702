// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// form is how the sentence about a fact is built.
type form uint8

const (
	setting form = iota // SUBJECT is VALUE
	act                 // SUBJECT is VALUE, which is something done to it
	share               // SUBJECT receives VALUE of what a rule routes
	rule                // SUBJECT has a rule, VALUE
	line                // VALUE is a line of the compiled policy that has no words of its own
)

// fact is one thing that a compiled policy says of another.
type fact struct {
	form           form
	subject, value string
	// of is the subject whose coming or going says all of this one; "": none.
	of string
}

// sentences say what differs between two texts of one thing, in their order; none: it is
// the same.
func sentences(old, next []string) []string {
	oldBlocks, nextBlocks := ruleBlocks(old), ruleBlocks(next)
	var out []string
	if len(oldBlocks)+len(nextBlocks) == 0 {
		out = changes(factsOf(old), factsOf(next))
	} else {
		out = append(changes(factsOf(old[:beforeRules(old)]), factsOf(next[:beforeRules(next)])), ruleSentences(oldBlocks, nextBlocks)...)
	}
	if len(out) == 0 && !slices.Equal(old, next) {
		out = append(out, "the order of what is asked first is another")
	}
	return out
}

// beforeRules is where the first rule of a VirtualService begins.
func beforeRules(lines []string) int {
	if i := slices.IndexFunc(lines, ruleHead.MatchString); i >= 0 {
		return i
	}
	return len(lines)
}

// ruleHead is a line that a rule for HTTP, TLS or TCP begins with.
var ruleHead = regexp.MustCompile(`^(if|tls|tcp) (.*)$`)

// ruleBlocks are the rules of a VirtualService: a condition with what is done.
func ruleBlocks(lines []string) []block { return blocks(lines[beforeRules(lines):]) }

// ruleSentences compares rules by their conditions. Where as many conditions went as
// came, each stands for the one in its place.
func ruleSentences(old, next []block) (out []string) {
	goneHeads, newHeads := differing(heads(old), heads(next))
	paired := len(goneHeads) == len(newHeads)
	i, j := 0, 0
	for i < len(old) || j < len(next) {
		gone := i < len(old) && len(goneHeads) > 0 && old[i].head == goneHeads[0]
		came := j < len(next) && len(newHeads) > 0 && next[j].head == newHeads[0]
		switch {
		case gone && came && paired:
			out = append(out, fmt.Sprintf("a rule is now for %s (it was for %s)", condition(next[j].head), condition(old[i].head)))
			out = append(out, within(condition(next[j].head), changes(factsOf(old[i].body), factsOf(next[j].body)))...)
			goneHeads, newHeads, i, j = goneHeads[1:], newHeads[1:], i+1, j+1
		case gone && !paired || j >= len(next):
			out = append(out, fmt.Sprintf("the rule for %s is no longer there; it was: %s", condition(old[i].head), summary(old[i].body)))
			goneHeads, i = goneHeads[min(1, len(goneHeads)):], i+1
		case gone && !came: // in pairs, of which the other one stands farther below
			out = append(out, fmt.Sprintf("the rule for %s is no longer in this place; it was: %s", condition(old[i].head), summary(old[i].body)))
			goneHeads, i, paired = goneHeads[1:], i+1, false
		case came || i >= len(old):
			out = append(out, fmt.Sprintf("a rule for %s comes: %s", condition(next[j].head), summary(next[j].body)))
			newHeads, j, paired = newHeads[min(1, len(newHeads)):], j+1, false
		default:
			out = append(out, within(condition(next[j].head), changes(factsOf(old[i].body), factsOf(next[j].body)))...)
			i, j = i+1, j+1
		}
	}
	return out
}

func heads(all []block) []string {
	out := make([]string, 0, len(all))
	for _, b := range all {
		out = append(out, b.head)
	}
	return out
}

// condition is for which requests or connections a rule is.
func condition(head string) string {
	m := ruleHead.FindStringSubmatch(head)
	if m == nil {
		return "what is " + head
	}
	all := everyRequest
	if m[1] != "if" {
		all = "all " + strings.ToUpper(m[1]) + " connections"
	}
	if m[2] = named.ReplaceAllString(m[2], ""); m[2] != "any" {
		return strings.TrimPrefix(all, "all ") + " with " + m[2]
	}
	return all
}

// everyRequest is the condition of a rule that has none.
const everyRequest = "all requests"

// within says of which requests sentences are.
func within(condition string, list []string) []string {
	if condition == everyRequest {
		return list
	}
	for i := range list {
		list[i] = "of " + condition + ": " + list[i]
	}
	return list
}

// summary is what a rule does, in short.
func summary(body []string) string {
	var out []string
	for _, f := range factsOf(body) {
		switch {
		case f.of != "" || f.subject == ruleName:
		case f.form == share:
			out = append(out, f.value+" to "+f.subject)
		case f.form == line:
			out = append(out, f.value)
		default:
			out = append(out, f.subject+" is "+f.value)
		}
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

// changes says what differs between facts, those of the new policy in their order and
// then those that are gone. The n-th of several about one subject is compared with the
// n-th.
func changes(old, next []fact) (out []string) {
	old, next = different(old, next), different(next, old)
	taken := make([]bool, len(old))
	for _, f := range next {
		was := -1
		for i, o := range old {
			if !taken[i] && o.form == f.form && o.subject == f.subject && o.form != line {
				was = i
				break
			}
		}
		switch {
		case was >= 0:
			taken[was] = true
			out = append(out, f.changed(old[was].value))
		case !about(next, f.of):
			out = append(out, f.came())
		}
	}
	for i, o := range old {
		if !taken[i] && !about(old, o.of) {
			out = append(out, o.gone())
		}
	}
	return out
}

// different are the facts of a that b has not.
func different(a, b []fact) (out []fact) {
	left := slices.Clone(b)
	for _, f := range a {
		if i := slices.Index(left, f); i >= 0 {
			left = slices.Delete(left, i, i+1)
		} else {
			out = append(out, f)
		}
	}
	return out
}

// about says whether there is a fact about a subject.
func about(list []fact, subject string) bool {
	return subject != "" && slices.ContainsFunc(list, func(f fact) bool { return f.subject == subject })
}

// changed is the sentence of a fact that was another one.
func (f fact) changed(was string) string {
	switch f.form {
	case share:
		return fmt.Sprintf("%s now receives %s (it was %s)", f.subject, f.value, was)
	case rule:
		return fmt.Sprintf("a rule of %s is now: %s (it was: %s)", f.subject, f.value, was)
	}
	return fmt.Sprintf("%s is now %s (it was %s)", f.subject, f.value, was)
}

// came is the sentence of a fact that there was none of.
func (f fact) came() string {
	switch f.form {
	case act:
		return fmt.Sprintf("%s is now %s", f.subject, f.value)
	case share:
		return fmt.Sprintf("%s now receives %s", f.subject, f.value)
	case rule:
		return fmt.Sprintf("%s has a new rule: %s", f.subject, f.value)
	case line:
		return "now: " + f.value
	}
	return fmt.Sprintf("%s is now %s (it was not set)", f.subject, f.value)
}

// gone is the sentence of a fact that there is none of any more.
func (f fact) gone() string {
	switch f.form {
	case act:
		return fmt.Sprintf("%s is no longer %s", f.subject, f.value)
	case share:
		return fmt.Sprintf("%s receives nothing any more (it was %s)", f.subject, f.value)
	case rule:
		return fmt.Sprintf("%s no longer has the rule: %s", f.subject, f.value)
	case line:
		return "no longer: " + f.value
	}
	return fmt.Sprintf("%s is no longer set (it was %s)", f.subject, f.value)
}
