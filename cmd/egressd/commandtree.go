// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandNode is a command as the verb commands prints it, with those below it.
type commandNode struct {
	Use      string        `json:"use"`
	Short    string        `json:"short"`
	Long     string        `json:"long,omitempty"`
	Example  string        `json:"example,omitempty"`
	Flags    []flagNode    `json:"flags,omitempty"`
	Commands []commandNode `json:"commands,omitempty"`
}

// flagNode is a flag of a command.
type flagNode struct {
	Name      string `json:"name"`
	Shorthand string `json:"shorthand,omitempty"`
	Type      string `json:"type"` // as pflag names it
	Default   string `json:"default,omitempty"`
	// Alone is the value of a flag that is given without one; "": it needs one.
	Alone string `json:"alone,omitempty"`
	Usage string `json:"usage"`
}

func commandTreeCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:    "commands",
		Short:  "Print all commands and flags as JSON, of which the manual pages are made",
		Hidden: true,
		Args:   usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			writeJSON(e.stdout, describeCommand(cmd.Root()))
			return nil
		},
	}
}

// describeCommand describes a command, without hidden ones and hidden flags.
func describeCommand(cmd *cobra.Command) commandNode {
	n := commandNode{Use: cmd.Use, Short: cmd.Short, Long: cmd.Long, Example: strings.Trim(cmd.Example, "\n")}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			n.Flags = append(n.Flags, flagNode{f.Name, f.Shorthand, f.Value.Type(), f.DefValue, f.NoOptDefVal, f.Usage})
		}
	})
	for _, below := range cmd.Commands() {
		if below.IsAvailableCommand() && below.Name() != "help" {
			n.Commands = append(n.Commands, describeCommand(below))
		}
	}
	return n
}
