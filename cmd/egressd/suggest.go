// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/quote"
)

func suggestCommand(e env) *cobra.Command {
	var out output
	var daemon client
	cmd := &cobra.Command{
		Use:   "suggest",
		Short: "Print the ServiceEntries that would allow what was denied",
		Long: `suggest prints the policy that would allow what the running daemon has denied
since it started, or in audit mode would have denied. Read it before it is put
in force: it allows what programs tried, which may be more than they should have.

Learn a policy with "egressd run --mode audit", which needs no --config, or with
"egressd exec --mode audit --suggest FILE -- COMMAND". In audit mode the ports are
those that were connected to. An object that has the name of one of the policy's
replaces that one: suggest has added ports to it.`,
		Example: `  sudo egressd suggest > /etc/egressd/learned.yaml
  sudo egressd suggest -o json | jq .unknown   # asked for, never connected to`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			body, err := daemon.ask(cmd.Context(), http.MethodGet, admin.PathSuggest, nil)
			if err != nil {
				return err
			}
			if asJSON {
				_, err = e.stdout.Write(body)
				return err
			}
			var s explain.Suggestions
			if err := json.Unmarshal(body, &s); err != nil {
				return told(err)
			}
			fmt.Fprint(e.stdout, quote.Lines(s.YAML()))
			return nil
		},
	}
	out.register(cmd)
	daemon.register(cmd)
	return cmd
}
