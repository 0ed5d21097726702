// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/lifecycle"
	"github.com/egressd/egressd/policy/istio"
)

// reloadTakes is how long a reload may take unless --timeout says something else: a file
// may be written for 10 s, and many rules take seconds.
const reloadTakes = time.Minute

func reloadCommand(e env) *cobra.Command {
	var out output
	var daemon client
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the running daemon read its policy again, and wait until it is in force",
		Long: `reload has the running daemon read its policy again, and ends when the policy of the
files is in force. If there are errors in the files, reload prints them, the policy that
was in force before stays in force, and the exit code is 1. A daemon follows changes of
its files by itself: reload tells what came of them. Only root may reload.`,
		Example: `  sudo egressd reload
  sudo egressd reload -o json | jq .policy.hash`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			body, err := daemon.ask(cmd.Context(), http.MethodPost, admin.PathReload, nil)
			if err != nil {
				return err
			}
			var o lifecycle.Reloaded
			if err := json.Unmarshal(body, &o); err != nil {
				return told(err)
			}
			if asJSON {
				_, err = e.stdout.Write(body)
			} else {
				printReloaded(e, o)
			}
			if err == nil && (o.Policy.Error != "" || o.Policy.Failed != nil) {
				return exitError{exitFinding}
			}
			return err
		},
	}
	out.register(cmd)
	daemon.register(cmd)
	f := cmd.Flags().Lookup("timeout")
	f.Usage, f.DefValue = "how long to wait until the policy is in force", reloadTakes.String()
	daemon.wait = reloadTakes
	return cmd
}

// printReloaded says in words what came of a reload.
func printReloaded(e env, o lifecycle.Reloaded) {
	p := o.Policy
	why := p.Error
	for _, f := range o.Findings {
		if f.Severity == istio.Error {
			why = "it has errors"
			failLine(e, "%s", f)
			continue
		}
		printLine(e.stderr, "%s", f)
	}
	in := fmt.Sprintf("policy %.12s", p.Hash)
	switch {
	case p.Failed != nil && p.Failed.InForce:
		failLine(e, "egressd: the policy is in force in part: %s", p.Failed.Error)
		failLine(e, "egressd: some of what it allows may be denied; nothing is allowed that neither it nor the one before allows. The daemon tries again every ten seconds")
		return
	case p.Error != "":
		failLine(e, "egressd: the policy was not reloaded: %s", why)
		failLine(e, "egressd: %s of %s stays in force, also for new connections. Correct the files; the daemon reads them again by itself", in, p.Loaded.Local().Format(time.DateTime))
		return
	}
	what := "is in force, as before"
	if o.Changed {
		what = "is in force now"
	}
	printLine(e.stdout, "%s %s: %d services, %d virtual services, %d gateways", in, what, p.Services, p.VirtualServices, p.Gateways)
}

// failLine prints a line that says why a reload failed: ExecReload of a unit writes to the
// journal, which then has it among the errors.
func failLine(e env, format string, args ...any) {
	var line bytes.Buffer
	printLine(&line, format, args...)
	e.fail(line.String())
}
