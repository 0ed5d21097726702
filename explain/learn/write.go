// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/egressd/egressd/internal/quote"
)

// maxListed is how many names a note lists.
const maxListed = 64

// word is text of others within a line.
func word(s string) string { return quote.Word(quote.Cut(s)) }

func (p *Proposal) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// noteNames says which names of a namespace are not allowed as they were seen.
func (p *Proposal) noteNames(s *space) {
	for i, host := range slices.Sorted(maps.Keys(s.no)) {
		if i == maxListed {
			p.note("not learned: %d more such names", len(s.no)-i)
			break
		}
		p.note("not learned: %s: %s", word(host), quote.Text(s.no[host].Error()))
	}
	for _, domain := range s.refused[:min(len(s.refused), maxListed)] {
		p.note("no wildcard for the many names below %s: names there belong to many owners (public suffix)", word(domain))
	}
}

// noteRest says what was seen and is not in the policy.
func (p *Proposal) noteRest(l *Learner) {
	have := map[string]bool{}
	for k := range l.rows {
		have[k.host] = true
	}
	for _, name := range slices.Sorted(maps.Keys(l.asked)) {
		if !have[name] {
			p.Unknown = append(p.Unknown, name)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(l.cannot)) {
		p.note("not learned: %d flows that no ServiceEntry allows (%s)", l.cannot[why], word(why))
	}
	if l.inside > 0 {
		p.note("not learned: %d flows that are inside of the cluster and need no rule", l.inside)
	}
	if l.folded > 0 {
		p.note("not complete: %d flows were to more destinations than are told apart", l.folded)
	}
	if l.lost > 0 {
		p.note("not complete: %d events came faster than they were read", l.lost)
	}
}

// Empty says whether there is nothing to allow.
func (p Proposal) Empty() bool { return len(p.objects) == 0 }

// Objects are the objects as YAML, one document each.
func (p Proposal) Objects() ([]string, error) {
	out := make([]string, 0, len(p.objects))
	for _, o := range p.objects {
		text, err := o.yaml()
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

// YAML is the policy as a file. about are lines on where it comes from.
func (p Proposal) YAML(about ...string) (string, error) {
	var b strings.Builder
	for _, line := range slices.Concat(about, p.Notes) {
		b.WriteString(comment(line) + "\n")
	}
	if n := len(p.Unknown); n > 0 {
		b.WriteString(comment("asked for and never connected to, so that no port is known: "+strings.Join(p.Unknown[:min(n, maxListed)], ", ")) + "\n")
		if n > maxListed {
			b.WriteString(comment(fmt.Sprintf("and %d more", n-maxListed)) + "\n")
		}
	}
	objects, err := p.Objects()
	if err != nil {
		return "", err
	}
	for i, o := range objects {
		if i > 0 || b.Len() > 0 {
			b.WriteString("---\n")
		}
		b.WriteString(o)
	}
	return b.String(), nil
}

// comment is one line, whatever is in it.
func comment(s string) string { return "# " + quote.Line(s) }

// yaml is an object with its comments.
func (o object) yaml() (string, error) {
	var n yaml.Node
	if err := n.Encode(o.value); err != nil {
		return "", fmt.Errorf("write %s: %w", o.name, err)
	}
	lines := make([]string, 0, len(o.comments))
	for _, c := range o.comments {
		lines = append(lines, comment(c))
	}
	n.Content[0].HeadComment = strings.Join(lines, "\n")
	if len(o.ports) > 0 {
		items := child(child(&n, "spec"), "ports")
		for i, c := range o.ports {
			items.Content[i].HeadComment = comment(c)
		}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&n); err != nil {
		return "", fmt.Errorf("write %s: %w", o.name, err)
	}
	return b.String(), enc.Close()
}

// child is the value of a key that is there.
func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return &yaml.Node{}
}
