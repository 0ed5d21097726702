// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/internal/loglevel"
	"github.com/egressd/egressd/internal/quote"
)

func logLevelCommand(e env) *cobra.Command {
	var out output
	var daemon client
	cmd := &cobra.Command{
		Use:   "log-level [LEVEL] [SCOPE=LEVEL]...",
		Short: "Show or change the levels of the running daemon's log",
		Long: `log-level prints the levels of the log of the running daemon, and changes those that
are named: LEVEL is that of all of the log, SCOPE=LEVEL that of one part of it. A level
is debug, info, warn or error; SCOPE=inherit gives the scope the level of all again.
Changes last until the daemon ends. Only root may change levels.

The scopes are ` + strings.Join(agent.Scopes(), ", ") + `.`,
		Example: `  sudo egressd log-level
  sudo egressd log-level warn dns=debug
  sudo egressd log-level dns=inherit`,
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			query, err := levels(args)
			if err != nil {
				return err
			}
			method := http.MethodGet
			if len(query) > 0 {
				method = http.MethodPost
			}
			body, err := daemon.ask(cmd.Context(), method, admin.PathLogging, query)
			if err != nil {
				return err
			}
			if asJSON {
				_, err = e.stdout.Write(body)
				return err
			}
			var now map[string]string
			if err := json.Unmarshal(body, &now); err != nil {
				return told(err)
			}
			for _, name := range slices.Sorted(maps.Keys(now)) {
				fmt.Fprintf(e.stdout, "%-8s %s\n", quote.Word(name), quote.Word(now[name]))
			}
			return nil
		},
	}
	out.register(cmd)
	daemon.register(cmd)
	return cmd
}

// levels reads the arguments of log-level.
func levels(args []string) (url.Values, error) {
	query := url.Values{}
	for _, arg := range args {
		scope, level, ok := strings.Cut(arg, "=")
		switch {
		case !ok:
			scope, level = admin.AllLevels, arg
		case !slices.Contains(agent.Scopes(), scope):
			return nil, usageError{fmt.Errorf("there is no scope %q; there are %s", scope, strings.Join(agent.Scopes(), ", "))}
		case level == loglevel.Inherit:
			query.Set(scope, level)
			continue
		}
		if _, err := loglevel.Parse(level); err != nil {
			return nil, usageError{err}
		}
		query.Set(scope, level)
	}
	return query, nil
}
