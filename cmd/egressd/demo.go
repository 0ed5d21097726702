// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/demo"
)

func demoCommand(e env) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the policy at work in a little internet of its own",
		Long: `demo makes network namespaces with a DNS server, web sites, a database and a site
that nobody may reach. It puts a workload under the example policy, lets real
programs try what is allowed and what is not, and prints what happened and why. It
touches nothing outside these namespaces, and leaves nothing behind.`,
		Example: "  sudo egressd demo",
		Args:    usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("the demo makes network namespaces and loads kernel programs; run it with sudo")
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return demo.Run(cmd.Context(), demo.Options{Out: e.stdout, Color: colours(e), JSON: asJSON, Self: self})
		},
	}
	out.register(cmd)
	return cmd
}

// colours says whether standard output is a terminal that shows them
// (https://no-color.org).
func colours(e env) bool {
	f, ok := e.stdout.(*os.File)
	if !ok || e.getenv("NO_COLOR") != "" || e.getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// demoClientCommand is the demo's own client, for machines without curl.
func demoClientCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:                "demo-client",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := demo.Client(cmd.Context(), args, e.stdout); err != nil {
				return usageError{err}
			}
			return nil
		},
	}
}
