// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// listVar registers a flag that may be given several times, with one or more values
// that are separated by commas. One that is empty is an error: it is a variable that is
// not set, and to pass it over would do less, or more, than was meant.
func listVar(fs *pflag.FlagSet, to *[]string, name, usage string) {
	fs.StringSliceVar(to, name, nil, usage)
	f := fs.Lookup(name)
	f.Value = fullList{f.Value}
	f.DefValue = "" // no "(default [])"
}

// fullList is a list that has no empty values.
type fullList struct{ pflag.Value }

// Set adds the values of a text.
func (l fullList) Set(s string) error {
	if slices.ContainsFunc(strings.Split(s, ","), func(v string) bool { return strings.TrimSpace(v) == "" }) {
		return errors.New("there is nothing in it, or between two commas: a variable that is not set, or a comma too much; write a value, or leave the flag out")
	}
	return l.Value.Set(s)
}
