// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parseJSON is Parse for one document that is JSON, which YAML contains: the objects of
// an API server are. The YAML library takes ten times as long for it, and as much memory.
// It makes the same tree of it; false: the text is something else, or one that YAML reads
// otherwise or says something about.
func parseJSON(c Chunk) (*Node, bool) {
	text := bytes.TrimRight(c.Text, " \n")
	if len(text) == 0 || text[0] != '{' || !printable(text) || !json.Valid(text) {
		return nil, false
	}
	w := jsonWalker{text: text, line: c.Line + 1, col: 1}
	n := w.value(0)
	return n, !w.other
}

// printable says whether a text has only what may stand in YAML as it is, and no escape
// that YAML does not know.
func printable(text []byte) bool {
	ascii := true
	for _, c := range text {
		if c < ' ' && c != '\n' || c == 0x7f {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if !ascii {
		for i := 0; i < len(text); {
			r, n := utf8.DecodeRune(text[i:])
			switch {
			case r == utf8.RuneError, r >= 0x80 && r < 0xa0, r == '\u2028', r == '\u2029', r == '\ufeff', r == '\ufffe', r == '\uffff':
				return false
			}
			i += n
		}
	}
	return !bytes.Contains(text, []byte(`\ud`)) && !bytes.Contains(text, []byte(`\uD`)) // surrogates
}

// jsonWalker reads a text that is valid JSON.
type jsonWalker struct {
	text []byte
	pos  int
	// line is that of pos, and counted is where its characters are counted to, which is
	// the column there.
	line, counted, col int
	// other says that the text is one for the YAML library.
	other bool
}

// next skips what stands between values, and returns what comes then.
func (w *jsonWalker) next() byte {
	for ; ; w.pos++ {
		switch c := w.text[w.pos]; c {
		case ' ', ',', ':':
		case '\n':
			w.line++
			w.counted, w.col = w.pos+1, 1
		default:
			return c
		}
	}
}

// column is that of pos, in characters.
func (w *jsonWalker) column() int {
	w.col += utf8.RuneCount(w.text[w.counted:w.pos])
	w.counted = w.pos
	return w.col
}

// value reads a value, which is not whole when something in it is not for here.
func (w *jsonWalker) value(depth int) *Node {
	c := w.next()
	n := &Node{Line: w.line, Col: w.column(), size: 1}
	if w.other = w.other || depth > maxDepth; w.other {
		return n
	}
	switch c {
	case '{':
		n.Kind = Mapping
		w.mapping(n, depth)
	case '[':
		n.Kind = List
		for w.pos++; !w.other && w.next() != ']'; {
			item := w.value(depth + 1)
			n.Items = append(n.Items, item)
			n.grow(item)
		}
		w.pos++
	case '"':
		n.Tag, n.Text = "!!str", w.str()
	default:
		w.literal(n)
	}
	return n
}

func (w *jsonWalker) mapping(n *Node, depth int) {
	for w.pos++; !w.other && w.next() != '}'; {
		f := Field{line: w.line, col: w.column()}
		f.Key = w.str()
		for i := range n.Fields {
			w.other = w.other || n.Fields[i].Key == f.Key
		}
		w.other = w.other || len(n.Fields) == maxJSONFields
		f.Value = w.value(depth + 1)
		n.Fields = append(n.Fields, f)
		n.grow(f.Value)
	}
	w.pos++
}

// maxJSONFields is how many fields are compared with each other.
const maxJSONFields = 64

// str reads a string.
func (w *jsonWalker) str() (s string) {
	from, escaped := w.pos, false
	for w.pos++; w.text[w.pos] != '"'; w.pos++ {
		if w.text[w.pos] == '\\' {
			escaped = true
			w.pos++
		}
	}
	w.pos++
	if !escaped {
		return string(w.text[from+1 : w.pos-1])
	}
	_ = json.Unmarshal(w.text[from:w.pos], &s) // it is valid
	return s
}

// maxDigits is how many digits a number may have to be an int64, whatever they are.
const maxDigits = 18

// literal reads a number, a boolean or null. Numbers but plain integers are for the YAML
// library.
func (w *jsonWalker) literal(n *Node) {
	from := w.pos
	for !strings.ContainsRune(" ,\n]}", rune(w.text[w.pos])) {
		w.pos++ // a brace ends the text
	}
	n.Text = string(w.text[from:w.pos])
	switch n.Text {
	case "null":
		n.Tag = "!!null"
	case "true", "false":
		n.Tag, n.Value = "!!bool", n.Text == "true"
	default:
		i, err := strconv.ParseInt(n.Text, 10, 64)
		if n.Tag, n.Value = "!!int", i; err != nil || len(n.Text) > maxDigits || n.Text[0] == '-' {
			w.other = true
		}
	}
}
