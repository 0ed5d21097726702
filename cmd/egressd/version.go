// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func versionCommand(e env) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  egressd version\n  egressd version -o json | jq -r .version",
		Args:    usageArgs(noArgs),
		RunE: func(*cobra.Command, []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			if asJSON {
				writeJSON(e.stdout, map[string]string{"version": version, "go": runtime.Version()})
				return nil
			}
			fmt.Fprint(e.stdout, versionLine())
			return nil
		},
	}
	out.register(cmd)
	return cmd
}

func versionLine() string { return fmt.Sprintf("egressd %s (%s)\n", version, runtime.Version()) }
