// SPDX-License-Identifier: Apache-2.0

package testenv

import "regexp"

// Block is a file or commands in a page of docs/recipes. Name is the file's: the last
// thing in backquotes that begins a line before it; "": there is none.
type Block struct{ Kind, Name, Text string }

var (
	fence    = regexp.MustCompile("(?ms)^```([a-z-]+)\n(.*?)^```$")
	fileName = regexp.MustCompile("(?m)^`([^`\n]+)`")
)

// Blocks are those of a page, in their order.
func Blocks(page string) (out []Block) {
	at := 0
	for _, m := range fence.FindAllStringSubmatchIndex(page, -1) {
		b := Block{Kind: page[m[2]:m[3]], Text: page[m[4]:m[5]]}
		if names := fileName.FindAllStringSubmatch(page[at:m[0]], -1); len(names) > 0 {
			b.Name = names[len(names)-1][1]
		}
		out, at = append(out, b), m[1]
	}
	return out
}
