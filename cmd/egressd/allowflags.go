// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source"
)

// allowFlags are the flags for a policy in its short form.
type allowFlags struct {
	items, files []string
	print        bool
}

func (f *allowFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	listVar(fs, &f.items, "allow", "destination that is allowed: HOST (ports 443 and 80), HOST:PORT, '*.DOMAIN', ADDRESS:PORT, CIDR:PORT, SCHEME://HOST; udp://HOST:PORT for UDP; may be given several times, and beside --config")
	listVar(fs, &f.files, "allow-file", "file with such destinations, one a line, # begins a comment; may be given several times")
	fs.BoolVar(&f.print, "print-policy", false, "print the ServiceEntries that --allow and --allow-file stand for, and do nothing else")
}

func (f *allowFlags) allow() source.Allow {
	return source.Allow{Items: f.items, Paths: f.files}
}

// read reads what the flags name, as files of a policy.
func (f *allowFlags) read() ([]istio.File, error) {
	files, err := (&source.AllowCache{Allow: f.allow()}).Files()
	if err != nil {
		return nil, usageError{err}
	}
	return files, nil
}

// printed prints the policy in its long form, if that is asked for.
func (f *allowFlags) printed(w io.Writer) (bool, error) {
	if !f.print {
		return false, nil
	}
	if f.allow().Empty() {
		return true, usageError{fmt.Errorf("--print-policy prints what --allow and --allow-file stand for; give one of them")}
	}
	text, err := f.allow().YAML()
	if err != nil {
		return true, usageError{err}
	}
	_, err = io.WriteString(w, text)
	return true, err
}
