// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/egressd/egressd/internal/quote"
)

// printLine writes one line for people. Parts of it are chosen by others:
// names of processes and hosts, paths, what a policy says.
func printLine(w io.Writer, format string, args ...any) {
	fmt.Fprintln(w, quote.Line(fmt.Sprintf(format, args...)))
}

func writeJSON(w io.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // a closed pipe is the reader's wish
}
