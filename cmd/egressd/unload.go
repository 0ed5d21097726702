// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/agent/teardown"
)

func unloadCommand(e env) *cobra.Command {
	var pinDir string
	var daemon client
	var stay bool
	cmd := &cobra.Command{
		Use:   "unload",
		Short: "Detach and remove everything from the kernel: the node is open again",
		Long: `unload stops a running daemon and removes all programs, tables and links of
egressd from the kernel. All traffic is open at once, also while the daemon still
finishes open requests, and when it is stuck. Processes that an "egressd exec" left
under its policy when it was killed are free, too. unload cannot stop an egressd
that it does not reach (one with another --state-dir, one whose own was removed, an
exec), and that one would put back what is removed: unload names it, leaves its
part alone, and the exit code is 1.`,
		Example: "  sudo egressd unload",
		Args:    usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := unload(cmd.Context(), e, daemon, pinDir); err != nil || !stay {
				return err
			}
			<-cmd.Context().Done()
			return nil
		},
	}
	cmd.Flags().BoolVar(&stay, "stay", false, "when everything is removed, go on without doing anything until SIGTERM: for a container that would be started again")
	daemon.register(cmd)
	registerDirs(cmd, nil, &pinDir)
	return cmd
}

// unload asks the daemon to end, and removes what is in the kernel, whatever it
// says: traffic is open when requests in flight still end, and when it is stuck.
func unload(ctx context.Context, e env, daemon client, pinRoot string) error {
	captured := capturedBy(ctx, daemon)
	pins, err := teardown.OpenPins(pinRoot)
	if err != nil {
		return err
	}
	defer pins.Close()
	_, err = daemon.ask(ctx, http.MethodPost, admin.PathUnload, nil)
	ends := err == nil
	silent := (*silentError)(nil)
	switch {
	case err == nil:
	case errors.As(err, &silent):
		printLine(e.stderr, "egressd: the daemon does not answer within %s; what it has in the kernel is removed all the same", daemon.wait)
	case !errors.Is(err, errNoDaemon):
		return err
	}
	removed := 0
	end := teardown.OfDaemon(daemon.stateDir, captured)
	end.Detach = func() (err error) {
		removed, err = pins.Remove(ends || silent != nil)
		return err
	}
	if ends {
		end.Ended = func() error {
			fmt.Fprintln(e.stderr, "all traffic is open; the daemon lets requests in flight end")
			// One that does not end in time is told of below.
			if err := state.WaitUnlocked(ctx, daemon.stateDir); err != nil && ctx.Err() != nil {
				return err
			}
			return nil
		}
	}
	if err := end.Run(); err != nil {
		return err
	}
	if err := pins.Stuck(); err != nil {
		return err
	}
	what := "nothing of egressd was left in the kernel"
	if removed > 0 || ends {
		what = "nothing of egressd is left in the kernel"
	}
	if others := teardown.AttachedTo(); len(others) > 0 {
		what = fmt.Sprintf("nothing of egressd is left in %s. But programs of an egressd are attached to %s: by one that has another --pin-dir, "+
			"or whose pins somebody removed; there traffic is open when that one ends", pinRoot, strings.Join(others, ", "))
	}
	printLine(e.stdout, "unloaded: %s", what)
	return nil
}

// capturedBy asks the daemon which cgroups it captures; nil: it can't say.
func capturedBy(ctx context.Context, daemon client) []string {
	daemon.wait /= 3 // it need not be known
	body, err := daemon.ask(ctx, http.MethodGet, admin.PathStatus, nil)
	if err != nil {
		return nil
	}
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return nil
	}
	return sortedKeys(s.Capture.Cgroups)
}
