// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/egressd/egressd/policy"
)

// policies are what a snapshot decides, taken from its canonical text: whatever changes
// a decision changes that, so that no change is missed.
type policies struct {
	byID      map[string]map[string]item
	named     map[string]string // workloads: the policy's number
	all       string            // that of the processes that are not described
	listeners map[string]item
}

// of is what the policy of a workload says.
func (p policies) of(workload string) map[string]item {
	if id, ok := p.named[workload]; ok {
		return p.byID[id]
	}
	return p.byID[p.all]
}

// item is what is said of one thing.
type item struct {
	lines []string
	// opens says that flows may pass because of it.
	opens bool
}

func policiesOf(s *policy.Snapshot) policies {
	p := policies{
		byID: map[string]map[string]item{}, named: map[string]string{}, listeners: map[string]item{},
		all: fmt.Sprint(policy.DefaultPolicy),
	}
	for _, w := range s.Workloads() {
		p.named[w.Key()] = fmt.Sprint(w.Policy)
	}
	for _, block := range blocks(strings.Split(strings.TrimRight(s.Text(), "\n"), "\n")) {
		switch kind, rest, _ := strings.Cut(block.head, " "); kind {
		case "policy":
			p.byID[rest] = itemsOf(block.body)
		case "workload": // which policy it has is all that is decided by it
		default:
			p.listeners[plain(block.head)] = item{lines: plainLines(append([]string{block.head}, block.body...))}
		}
	}
	return p
}

// block is a line with the lines that are indented below it, whose indentation is
// less by one step.
type block struct {
	head string
	body []string
}

func blocks(lines []string) (out []block) {
	for _, line := range lines {
		switch {
		case line == "":
		case !strings.HasPrefix(line, "  ") || len(out) == 0:
			out = append(out, block{head: line})
		default:
			last := &out[len(out)-1]
			last.body = append(last.body, line[2:])
		}
	}
	return out
}

// itemsOf are the things that a policy says something of.
func itemsOf(lines []string) map[string]item {
	out := map[string]item{}
	add := func(what string, opens bool, lines ...string) {
		i := out[what]
		out[what] = item{append(i.lines, plainLines(lines)...), i.opens || opens}
	}
	for _, b := range blocks(lines) {
		head := plain(b.head)
		kind, rest, _ := strings.Cut(head, " ")
		switch kind {
		case "host":
			host, _, _ := strings.Cut(rest, " ")
			host = strings.Trim(host, `"`)
			for _, sub := range blocks(b.body) {
				word, rest, _ := strings.Cut(plain(sub.head), " ")
				if word != "port" {
					add("answers and addresses of "+host, false, append([]string{sub.head}, sub.body...)...)
					continue
				}
				number, verdict, _ := strings.Cut(rest, " ")
				add(host+":"+number, !isDenied(verdict), append([]string{verdict}, sub.body...)...)
			}
			if len(b.body) == 0 {
				add("host "+host, false, head)
			}
		case "address": // PREFIX TRANSPORT PORT WAY
			if f := strings.SplitN(rest, " ", 4); len(f) == 4 {
				add(fmt.Sprintf("%s:%s/%s", f[0], f[2], f[1]), f[3] != "shut" && !isDenied(f[3]), append([]string{f[3]}, b.body...)...)
				continue
			}
			add(head, false, b.body...)
		case "routes":
			add("rules of "+rest, false, b.body...)
		default:
			add(kind+" settings", false, append([]string{b.head}, b.body...)...)
		}
	}
	return out
}

// isDenied says whether a text of a verdict denies.
func isDenied(text string) bool {
	for word := range strings.FieldsSeq(text) {
		if word == policy.Deny.String() {
			return true
		}
		if word == policy.Direct.String() || word == policy.Inspect.String() || word == policy.Proxy.String() {
			return false
		}
	}
	return false
}

// place is the position of an object behind its name, which decides nothing.
var place = regexp.MustCompile(`([A-Z][A-Za-z]+ [^ ()\[\]]+/[^ ()\[\]]+) [^ ()\[\]]+:\d+(:\d+)?([)\] ,]|$)`)

func plain(line string) string { return place.ReplaceAllString(line, "$1$3") }

func plainLines(lines []string) []string {
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		out = append(out, plain(l))
	}
	return out
}
