// SPDX-License-Identifier: Apache-2.0

// Command egressd is a transparent egress gateway: it decides in the kernel
// which connections may leave, by name, in Istio's own YAML.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/quote"
)

// version is set by the build (-ldflags -X main.version=...).
var version = "dev"

// Exit codes. Those of exec are its command's, or as env(1) has them.
const (
	exitGood    = 0
	exitFinding = 1 // a finding or a failure
	exitUsage   = 2

	exitNotStarted     = 3 // run did not start, and all traffic is open
	exitNotStartedHeld = 4 // run did not start, and traffic is held as before, or locked

	exitExec          = 125 // egressd failed, or was called wrongly
	exitNotExecutable = 126 // the command is there and cannot be executed
	exitNotFound      = 127 // there is no such command
)

// env is what the commands see of the world, so that tests can call them.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	environ        func() []string
	journal        bool // standard error is read by the journal of systemd
}

func main() {
	// What was ignored (nohup, a shell's background) stays ignored.
	ending := slices.DeleteFunc([]os.Signal{syscall.SIGINT, syscall.SIGTERM}, signal.Ignored)
	ctx, stop := signal.NotifyContext(context.Background(), ending...)
	journaled, _ := journal.StderrIsJournalStream() // what cannot be known is no journal
	code := run(ctx, env{os.Stdin, os.Stdout, os.Stderr, os.Getenv, os.Environ, journaled}, os.Args[1:])
	stop()
	os.Exit(code)
}

// usageError marks a wrong command line: exit code 2.
type usageError struct{ error }

// exitError carries an exit code and says that everything was printed.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// run is the whole program.
func run(ctx context.Context, e env, args []string) int {
	cmd := root(e)
	cmd.SetArgs(args)
	cmd.SetIn(e.stdin)
	cmd.SetOut(e.stdout)
	cmd.SetErr(e.stderr)
	failed, err := cmd.ExecuteContextC(ctx)
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return exitGood
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage):
		complain(e, failed, fmt.Sprintf("egressd: %s\nRun '%s --help' for how to use it.\n", quote.Lines(err.Error()), failed.CommandPath()))
		return failure(failed, exitUsage)
	}
	complain(e, failed, fmt.Sprintf("egressd: %s\n", quote.Lines(err.Error())))
	return failure(failed, exitFinding)
}

// failure is the exit code for what egressd could not do. With exec the small
// numbers are the command's.
func failure(cmd *cobra.Command, code int) int {
	if cmd.Name() == execName {
		return exitExec
	}
	return code
}

func root(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "egressd",
		Short: "A transparent egress gateway: your policy in Istio's YAML, decided in the kernel",
		Long: `egressd turns a Linux node into its own egress gateway. Processes keep making
ordinary connections; egressd decides in the kernel which may leave, by name.
The policy is Istio's own YAML: a ServiceEntry allows a host, a VirtualService
acts on its traffic, a Gateway is the entrance for the way in.`,
		Example: `  egressd check policy/                         # is the policy right?
  sudo egressd exec --config policy/ -- make    # one command under the policy
  sudo egressd run --config policy/             # the whole node`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return usageError{errors.New("say what to do: run, exec, check, test, diff, replay, explain, flows, top, suggest, status, reload, unload, demo or version")}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.SetFlagErrorFunc(flagError)
	cmd.Version = version
	cmd.SetVersionTemplate(versionLine())
	cmd.Flags().Bool("version", false, "print the version") // without -v, which is --verbose elsewhere
	cmd.AddCommand(
		runCommand(e), execCommand(e), reloadCommand(e), unloadCommand(e),
		checkCommand(e), testCommand(e), diffCommand(e), replayCommand(e), explainCommand(e), flowsCommand(e), topCommand(e), suggestCommand(e), logLevelCommand(e), statusCommand(e),
		demoCommand(e), demoClientCommand(e), probeCommand(e), versionCommand(e), commandTreeCommand(e), pilotAgentCommand(e),
	)
	knownHelp(cmd)
	return cmd
}

// noArgs is for commands that take flags alone.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes flags, and no %q", cmd.Name(), args[0])
	}
	return nil
}

// usageArgs turns errors about arguments into usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
