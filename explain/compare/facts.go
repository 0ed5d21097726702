// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ruleName is the subject of a rule's own name.
const ruleName = "the rule that acts"

// factsOf reads lines of the compiled policy. What it has no words for is a fact as it
// stands there, so that nothing that differs is left out.
func factsOf(lines []string) (out []fact) {
	var parents []string // the line above, at each depth
	for _, l := range lines {
		text := strings.TrimLeft(l, " ")
		depth := min((len(l)-len(text))/2, len(parents))
		parent := ""
		if depth > 0 {
			parent = parents[depth-1]
		}
		parents = append(parents[:depth], text)
		out = append(out, factsOfLine(text, parent)...)
	}
	return out
}

// factsOfLine reads a line by what it begins with.
func factsOfLine(text, parent string) []fact {
	word, rest, _ := strings.Cut(text, " ")
	mirrored := strings.HasPrefix(parent, "mirror ")
	switch {
	case word == "mirror":
		return nil // "copy" says it
	case word == "upstream":
		return upstreamFacts(rest, "", "")
	case word == "to" && destination.MatchString(text):
		return destinationFacts(text, mirrored)
	case word == "if":
		return []fact{{form: rule, subject: unbracketed(parent), value: authorization(rest)}}
	case actions[word] != "" && strings.Contains(rest, "(AuthorizationPolicy "):
		return []fact{{form: act, subject: object(text), value: actions[word] + dryRun(rest)}}
	}
	if m := ported.FindStringSubmatch(text); m != nil {
		facts := []fact{{form: act, subject: "what passes", value: ways[m[2]]}, {subject: "the object that allows it", value: m[3]}}
		return append([]fact{{subject: "the protocol", value: m[1]}}, facts...)
	}
	if m := way.FindStringSubmatch(text); m != nil {
		out := []fact{{form: act, subject: "what passes", value: ways[m[1]]}}
		for more := range strings.FieldsSeq(m[2]) {
			if kind, to, ok := strings.Cut(more, "="); ok {
				out = append(out, fact{subject: "the destination of " + kinds[kind], value: to})
			} else if more != "proves" {
				out = append(out, fact{subject: "the name that the address proves", value: more})
			}
		}
		return out
	}
	for _, p := range phrases {
		if m := p.line.FindStringSubmatchIndex(text); m != nil {
			expand := func(t string) string { return string(p.line.ExpandString(nil, t, text, m)) }
			f := fact{form: p.form, subject: expand(p.subject), value: expand(p.value)}
			if strings.HasPrefix(parent, "to ") {
				f.subject += " for " + destinationName(destination.FindStringSubmatch(parent))
			}
			return []fact{f}
		}
	}
	if settings, ok := strings.CutPrefix(text, "CORS policy "); ok {
		return settingFacts("CORS", settings, "", "")
	}
	return []fact{{form: line, value: text}}
}

// ways are what is done with what passes, by the verdicts.
var ways = map[string]string{
	"deny":    "denied",
	"direct":  "let through straight to the destination",
	"inspect": "let through straight after the name in its TLS was read",
	"proxy":   "sent through the proxy",
}

// kinds are the flows to an address that are told apart.
var kinds = map[string]string{"first": "what nothing is known of", "http": "HTTP", "tls": "TLS", "opaque": "what is neither HTTP nor TLS", "unset": "what has no protocol set"}

// actions are what an AuthorizationPolicy is, by its action.
var actions = map[string]string{
	"DENY":  "in force: what its rules name is denied",
	"ALLOW": "in force: what no rule of an ALLOW policy names is denied",
	"AUDIT": "in force: what its rules name is told",
}

func dryRun(rest string) string {
	if strings.HasPrefix(rest, "dry-run ") {
		return " (dry run: nothing is denied by it)"
	}
	return ""
}

var (
	destination = regexp.MustCompile(`^to (\S+):(\d+)(?: subset (\S+))? (\d+)/(\d+): (denied )?(.*)$`)
	ported      = regexp.MustCompile(`^(\S+) (deny|direct|inspect|proxy) \((.*)\)$`)
	way         = regexp.MustCompile(`^(deny|direct|inspect|proxy)((?: proves \S+)?(?: \w+=\S+)*)$`)
	named       = regexp.MustCompile(` ?\((\w+ \S+/\S+)\)`)
	none        = regexp.MustCompile(` not \[\]|\[\] (not \[)`)
)

// phrases are what lines say, in words.
var phrases = []struct {
	line           *regexp.Regexp
	form           form
	subject, value string
}{
	{regexp.MustCompile(`^timeout (\S+), counted from the request; then 504$`), setting, "the timeout", "$1"},
	{regexp.MustCompile(`^((?:no retries|1 retry|\d+ retries).*)$`), setting, "the retry policy", "$1"},
	{regexp.MustCompile(`^default retry: (.*)$`), setting, "the default retry policy", "$1"},
	{regexp.MustCompile(`^delay (\S+) for (.*)$`), setting, "the injected delay", "$1 for $2"},
	{regexp.MustCompile(`^abort with (.*)$`), setting, "the injected answer", "$1"},
	{regexp.MustCompile(`^redirect with (.*)$`), setting, "the redirect", "$1"},
	{regexp.MustCompile(`^answer (\d+) without an upstream(.*)$`), setting, "the answer of the proxy itself", "$1$2"},
	{regexp.MustCompile(`^rewrite the matched path to (.*)$`), setting, "the path in place of the matched one", "$1"},
	{regexp.MustCompile(`^rewrite the authority to (.*)$`), setting, "the authority that is sent", "$1"},
	{regexp.MustCompile(`^copy (\S+) of the requests to (.*)$`), setting, "the part of the requests that is mirrored to $2", "$1"},
	{regexp.MustCompile(`^a destination that nobody declares is answered with (\d+)$`), setting, "the answer where nobody declares the destination", "$1"},
	{regexp.MustCompile(`^(?:set) (request|response) header ("(?:[^"\\]|\\.)*") to (.*)$`), act, "$1 header $2", "set to $3"},
	{regexp.MustCompile(`^(?:add) (request|response) header ("(?:[^"\\]|\\.)*"): (.*)$`), act, "$1 header $2", "added with $3"},
	{regexp.MustCompile(`^(?:remove) (request|response) header ("(?:[^"\\]|\\.)*")$`), act, "$1 header $2", "removed"},
	{regexp.MustCompile(`^rule (".*") \((.*)\)$`), setting, ruleName, "$1 of $2"},
	{regexp.MustCompile(`^of \[(.*)\]$`), setting, "the object of the rules", "$1"},
	{regexp.MustCompile(`^answers \[(.*)\]$`), setting, "what DNS questions are answered with", "[$1]"},
	{regexp.MustCompile(`^literal \[(.*)\]$`), setting, "the list of addresses that are open by themselves", "[$1]"},
	{regexp.MustCompile(`^allow-private()$`), act, "an answer of DNS in a private network", "accepted"},
	{regexp.MustCompile(`^by rules alone()$`), act, "the port", "open by rules of a VirtualService alone"},
	{regexp.MustCompile(`^learned (ipv[46]) (.*)$`), setting, "the way to $1 addresses that DNS has told", "$2"},
	{regexp.MustCompile(`^outbound (ALLOW_ANY) \((.*)\)$`), act, "what no object declares", "let through ($1 of $2)"},
	{regexp.MustCompile(`^outbound (REGISTRY_ONLY) \((.*)\)$`), act, "what no object declares", "denied ($1 of $2)"},
}

// destinationFacts reads where a rule sends what it is for.
func destinationFacts(text string, mirrored bool) []fact {
	m := destination.FindStringSubmatch(text)
	name := destinationName(m)
	weight, _ := strconv.ParseFloat(m[4], 64) // digits
	total, _ := strconv.ParseFloat(m[5], 64)
	part := "everything"
	if total > 0 && weight != total {
		part = strconv.FormatFloat(weight*100/total, 'f', -1, 64) + "%"
		if len(part) > 6 {
			part = fmt.Sprintf("%s of %s parts", m[4], m[5])
		}
	}
	if m[6] != "" {
		part += ", which is denied"
	}
	if mirrored {
		return upstreamFacts(m[7], " of the mirror "+name, "the part of the requests that is mirrored to "+strings.ReplaceAll(name, ", subset ", " subset "))
	}
	return append([]fact{{form: share, subject: name, value: part}}, upstreamFacts(m[7], " of "+name, name)...)
}

// destinationName names what destination has found.
func destinationName(m []string) string {
	if m == nil {
		return "the destination"
	}
	name := m[1]
	if m[2] != "0" {
		name += ":" + m[2]
	}
	if m[3] != "" {
		name += " subset " + m[3]
	}
	return name
}

// object is the object that a line names.
func object(text string) string {
	if m := named.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return text
}

// unbracketed is an action with its object: "AuthorizationPolicy a/b (DENY)".
func unbracketed(text string) string {
	action, _, ok := strings.Cut(text, " (")
	if !ok {
		return text
	}
	return object(text) + " (" + action + ")"
}

// authorization is the text of a rule without what it does not ask.
func authorization(text string) string {
	text = none.ReplaceAllString(named.ReplaceAllString(text, ""), "$1")
	if text == "any" {
		return "everything"
	}
	return text
}
