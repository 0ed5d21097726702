// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/egressd/egressd/internal/spelling"
)

// pathsAlone are the verbs that take policies without --config, and how.
var pathsAlone = map[string]string{"check": "check PATH", "diff": "diff OLD NEW"}

// flagError is a usage error about flags, which names the flag that may be meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return usageError{err}
	}
	if hint := pilotAgentHint(unknown.GetSpecifiedName()); hint != "" {
		return usageError{fmt.Errorf("%w%s", err, hint)}
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if name := closest(unknown.GetSpecifiedName(), names); name != "" {
		err = fmt.Errorf("%w; did you mean --%s?", err, name)
	} else if how, ok := pathsAlone[cmd.Name()]; ok && unknown.GetSpecifiedName() == "config" {
		err = fmt.Errorf("%w; %s takes the policy without a flag: egressd %s", err, cmd.Name(), how)
	}
	return usageError{err}
}

// unknownCommand is the error about a verb that there is none of.
func unknownCommand(cmd *cobra.Command, verb string) error {
	var verbs []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			verbs = append(verbs, c.Name())
		}
	}
	if meant := closest(verb, verbs); meant != "" {
		return usageError{fmt.Errorf("unknown command %q; did you mean %q?", verb, meant)}
	}
	return usageError{fmt.Errorf("unknown command %q; there are %s", verb, strings.Join(verbs, ", "))}
}

// knownHelp has "help VERB" refuse a verb that there is none of: cobra shows the help of
// all, as if that had been asked for.
func knownHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() != "help" {
			continue
		}
		c.Example = "  egressd help check"
		c.Args = func(_ *cobra.Command, args []string) error {
			if of, _, err := root.Find(args); len(args) > 0 && (err != nil || of == root) {
				return unknownCommand(root, args[0])
			}
			return nil
		}
	}
}

// oneOfThem is the error about values of a flag, separated by commas, of which one is
// none of those that there are; nil: all are. otherwise says where those stand, where they
// are too many for a line.
func oneOfThem(flag, values string, there []string, otherwise string) error {
	if values == "" {
		return nil
	}
	for v := range strings.SplitSeq(values, ",") {
		if slices.Contains(there, v) {
			continue
		}
		if meant := closest(v, there); meant != "" {
			return usageError{fmt.Errorf("--%s: there is no %q; did you mean %s?", flag, v, meant)}
		}
		if otherwise == "" {
			otherwise = "there are " + strings.Join(there, ", ")
		}
		return usageError{fmt.Errorf("--%s: there is no %q; %s", flag, v, otherwise)}
	}
	return nil
}

// closest is the word that a text may stand for: the one with the fewest letters that
// are others, if these are few, or the only one that begins with the text. "": none.
func closest(text string, words []string) string {
	best, at := "", max(1, len(text)/3)+1
	var begins []string
	for _, w := range words {
		if d := spelling.Distance(text, w); d < at {
			best, at = w, d
		}
		if len(text) > 1 && strings.HasPrefix(w, text) {
			begins = append(begins, w)
		}
	}
	if best == "" && len(begins) == 1 {
		return begins[0]
	}
	return best
}
