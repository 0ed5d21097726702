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
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/demo"
	"github.com/egressd/egressd/internal/flock"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader"
)

func unloadCommand(e env) *cobra.Command {
	var pinDir string
	var daemon client
	cmd := &cobra.Command{
		Use:   "unload",
		Short: "Detach and remove everything from the kernel: the node is open again",
		Long: `unload stops a running daemon and removes all programs, tables and links of
egressd from the kernel. Traffic is open at once, also while the daemon still
lets requests in flight end, and when it is stuck. What an "egressd exec" that was
killed locked in is freed, too. An egressd that runs and is not reached, because it
has another --state-dir or its own was removed, or is an exec, would put back what
is removed: it is named and left alone, and the exit code is 1.`,
		Example: "  sudo egressd unload",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return unload(cmd.Context(), e, daemon, pinDir)
		},
	}
	daemon.register(cmd)
	registerDirs(cmd, nil, &pinDir)
	return cmd
}

// unload asks the daemon to end, and removes what is in the kernel, whatever it
// says: traffic is open when requests in flight still end, and when it is stuck.
func unload(ctx context.Context, e env, daemon client, pinRoot string) error {
	captured := capturedBy(ctx, daemon)
	locks, err := openLocks(pinRoot)
	if err != nil {
		return err
	}
	defer locks.close()
	_, err = daemon.ask(ctx, http.MethodPost, agent.PathUnload, nil)
	ends := err == nil
	silent := (*silentError)(nil)
	switch {
	case err == nil:
	case errors.As(err, &silent):
		printLine(e.stderr, "egressd: the daemon does not answer within %s; what it has in the kernel is removed all the same", daemon.wait)
	case !errors.Is(err, errNoDaemon):
		return err
	}
	removed, err := removePins(pinRoot, ends || silent != nil, locks.held())
	if err != nil {
		return err
	}
	if ends {
		fmt.Fprintln(e.stderr, "all traffic is open; the daemon lets requests in flight end")
		// One that does not end in time is told of below.
		if err := state.WaitUnlocked(ctx, daemon.stateDir); err != nil && ctx.Err() != nil {
			return err
		}
	}
	if err := errors.Join(agent.RemoveGates(), state.Remove(daemon.stateDir)); err != nil {
		return err
	}
	for _, dir := range captured {
		agent.RemoveOwnCgroup(dir)
	}
	if err := tellLiving(locks.held()); err != nil {
		return err
	}
	what := "nothing of egressd was left in the kernel"
	if removed > 0 || ends {
		what = "nothing of egressd is left in the kernel"
	}
	if others := attachedTo(); len(others) > 0 {
		what = fmt.Sprintf("nothing of egressd is left in %s. But programs of an egressd are attached to %s: by one that has another --pin-dir, "+
			"or whose pins somebody removed; there traffic is open when that one ends", pinRoot, strings.Join(others, ", "))
	}
	printLine(e.stdout, "unloaded: %s", what)
	return nil
}

// attachedTo lists the cgroups where programs of some egressd are.
func attachedTo() (dirs []string) {
	ids, _ := loader.AttachedAnywhere() // what cannot be read is not told of
	for _, id := range ids {
		if dir := cgroup.PathOf(id); dir != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// capturedBy asks the daemon which cgroups it captures. When it can't say it is
// taken to be the default, the whole node.
func capturedBy(ctx context.Context, daemon client) []string {
	root, _ := cgroup.Root() // without one there is nothing to remove
	daemon.wait /= 3         // it need not be known
	body, err := daemon.ask(ctx, http.MethodGet, agent.PathStatus, nil)
	if err != nil {
		return []string{root}
	}
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil || len(s.Workloads) == 0 {
		return []string{root}
	}
	return s.Workloads[0].Cgroups
}

// holder is an egressd that has a pin directory.
type holder struct {
	dir string // its base name
	pid int    // 0: it is not known
}

func (h holder) String() string {
	if h.pid > 0 {
		return fmt.Sprintf("pid %d", h.pid)
	}
	return "of another pid namespace"
}

// end is how to end it.
func (h holder) end() string {
	if h.pid > 0 {
		return fmt.Sprintf("end it with: kill %d (or kill -9 %d, if it is stuck)", h.pid, h.pid)
	}
	return "end it"
}

// tellLiving says which daemon still runs without anything in the kernel.
func tellLiving(living []holder) error {
	for _, h := range living {
		if h.dir == agent.NodePins {
			return fmt.Errorf("all traffic is open: the programs are detached. But the daemon (%s) still runs, and is stuck. "+
				"When it goes on it may attach them again, until it reads that it is to end: %s", h, h.end())
		}
	}
	return nil
}

// pinDirs lists the pin directories of the daemon and of every exec.
func pinDirs(root string) (dirs []string, err error) {
	err = securedir.Check(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(root)
	}
	dirs = []string{} // the root is there
	for _, d := range entries {
		if d.IsDir() {
			dirs = append(dirs, filepath.Join(root, d.Name()))
		}
	}
	return dirs, err
}

// pinLocks are open pin directories, each of which its egressd has locked for as
// long as it runs.
type pinLocks []*os.File

func openLocks(root string) (all pinLocks, err error) {
	dirs, err := pinDirs(root)
	for _, dir := range dirs {
		if f, err := os.Open(dir); err == nil { // else it is gone meanwhile
			all = append(all, f)
		}
	}
	return all, err
}

// held lists those who still run.
func (l pinLocks) held() (living []holder) {
	for _, f := range l {
		if pid, held, err := flock.HolderOf(f); err == nil && held {
			living = append(living, holder{filepath.Base(f.Name()), pid})
		}
	}
	return living
}

func (l pinLocks) close() {
	for _, f := range l {
		f.Close()
	}
}

// removePins removes the pins of every exec that has ended, and of the daemon, if
// it was reached or has ended: who runs puts back what is removed.
func removePins(root string, reached bool, living []holder) (removed int, err error) {
	dirs, err := pinDirs(root)
	if err != nil || dirs == nil {
		return 0, err
	}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		i := slices.IndexFunc(living, func(h holder) bool { return h.dir == name })
		switch {
		case i < 0, name == agent.NodePins && reached:
		case name == agent.NodePins:
			err = errors.Join(err, fmt.Errorf("a daemon (%s) runs and cannot be told to unload, as it has another --state-dir, or its own was removed; "+
				"its policy stays in force: %s, and unload again", living[i], living[i].end()))
			continue
		default:
			err = errors.Join(err, fmt.Errorf("an \"egressd exec\" (%s) runs, and the policy of its command stays in force: end that command, or the exec", living[i]))
			continue
		}
		attached, _ := loader.AttachedTo(dir) // what cannot be read fails below
		n, unloadErr := loader.Unload(dir)
		err = errors.Join(err, unloadErr)
		for _, id := range attached {
			err = errors.Join(err, agent.RemoveProbeCgroup(id))
		}
		removed += n
	}
	if err != nil {
		return removed, err
	}
	if err := os.Remove(root); !errors.Is(err, os.ErrNotExist) {
		return removed, err
	}
	return removed, nil
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
