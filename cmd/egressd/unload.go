// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/agent"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/demo"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader"
)

func unloadCommand(e env) *cobra.Command {
	var stateDir, pinDir string
	cmd := &cobra.Command{
		Use:   "unload",
		Short: "Detach and remove everything from the kernel: the node is open again",
		Long: `unload stops a running daemon and removes all programs, tables and links of
egressd from the kernel. What an "egressd exec" that was killed locked in is freed,
too. An exec that still runs keeps its command under its policy; unload says so.`,
		Example: "  sudo egressd unload",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			captured := capturedBy(cmd.Context(), stateDir)
			stopped := false
			_, err := daemonAt(stateDir).ask(cmd.Context(), http.MethodPost, agent.PathUnload, nil)
			switch {
			case err == nil:
				fmt.Fprintln(e.stderr, "the daemon detaches and ends")
				if err := agent.WaitUnlocked(cmd.Context(), stateDir); err != nil {
					return err
				}
				stopped = true
			case !errors.Is(err, errNoDaemon):
				return err
			}
			removed, err := removePins(pinDir)
			if err = errors.Join(err, agent.RemoveGates(), agent.RemoveState(stateDir)); err != nil {
				return err
			}
			for _, dir := range captured {
				agent.RemoveOwnCgroup(dir)
			}
			what := "nothing of egressd was left in the kernel"
			if removed > 0 || stopped {
				what = "nothing of egressd is left in the kernel"
			}
			fmt.Fprintln(e.stdout, "unloaded:", what)
			return nil
		},
	}
	registerDirs(cmd, &stateDir, &pinDir)
	return cmd
}

// capturedBy asks the daemon which cgroups it captures. When it can't say it is
// taken to be the default, the whole node.
func capturedBy(ctx context.Context, stateDir string) []string {
	root, _ := cgroup.Root() // without one there is nothing to remove
	c := daemonAt(stateDir)
	c.wait /= 3 // it need not be known
	body, err := c.ask(ctx, http.MethodGet, agent.PathStatus, nil)
	if err != nil {
		return []string{root}
	}
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil || len(s.Workloads) == 0 {
		return []string{root}
	}
	return s.Workloads[0].Cgroups
}

// removePins removes the pins of the daemon and of every exec.
func removePins(root string) (int, error) {
	err := securedir.Check(root)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(root)
	}
	if err != nil {
		return 0, err
	}
	removed := 0
	for _, d := range entries {
		if !d.IsDir() {
			continue
		}
		// Who runs holds its programs by descriptors, and would pin them again.
		dir := filepath.Join(root, d.Name())
		if taken := loader.CheckPinsFree(dir); taken != nil {
			err = errors.Join(err, fmt.Errorf("it runs, and its policy stays in force: unload it with its --state-dir, or end its command if it is an \"egressd exec\": %w", taken))
			continue
		}
		n, unloadErr := loader.Unload(dir)
		removed += n
		err = errors.Join(err, unloadErr)
	}
	if err != nil {
		return removed, err
	}
	return removed, os.Remove(root)
}

func demoCommand(e env) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the policy at work in a little internet of its own",
		Long: `demo makes network namespaces with a DNS server, web sites, a database and a
stranger in them, puts a workload under the example policy, lets real programs
try what is allowed and what is not, and prints what happened and why. Nothing
outside these namespaces is touched, and nothing is left behind.`,
		Example: "  sudo egressd demo",
		Args:    usageArgs(cobra.NoArgs),
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
