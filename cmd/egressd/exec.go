// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/exec"
	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy/istio"
)

const execName = "exec"

func execCommand(e env) *cobra.Command {
	var f policyFlags
	var flowLog flowLogFlags
	var as, suggest, learnTo string
	var quiet, privileges bool
	cmd := &cobra.Command{
		Use:                   execName + " --allow HOST...|--config PATH... [flags] -- COMMAND [ARG...]",
		DisableFlagsInUseLine: true,
		Short:                 "Run one command under the policy",
		Long: `exec runs a command in a fresh cgroup under the policy. No daemon is needed. The
policy is what --allow names, or files of Istio's YAML; --print-policy shows the YAML
that --allow stands for.

exec makes the cgroup where only root can move processes out again, and below the
policy that exec itself is under, if any.

If sudo starts exec, the command runs as the user who called sudo; --user names
another one. It cannot become another user then (sudo, su and other setuid programs
give it no privileges), unless --allow-new-privileges is given. A command that
runs as root (--user root) can leave the policy.

The output is the command's own, and so is the exit code: 128+n when signal n
ended it, 127 when it was not found, 126 when it cannot be executed, 125 when
egressd failed or was called wrongly. At the end exec lists on standard error what
was denied, each with the ServiceEntry that would allow it.

exec passes signals to the command, and kills processes that it leaves behind.`,
		Example: `  sudo egressd exec --allow api.github.com --allow '*.pypi.org:443' -- make
  sudo egressd exec --allow-file allowed.txt -- npm ci
  sudo egressd exec --config policy/ -- curl https://www.googleapis.com/
  sudo egressd exec --config policy/ --user build:docker -- npm ci
  sudo egressd exec --config policy/ --user root -- apt-get update
  sudo egressd exec --config policy/ --mode audit -- make   # what would be denied?
  sudo egressd exec --learn policy.yaml -- make   # let all pass, and write the policy that allows it`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !f.short.print {
				return usageError{errors.New("give the command to run after --")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if printed, err := f.short.printed(e.stdout); printed {
				return err
			}
			if learnTo != "" {
				if cmd.Flags().Changed("mode") && f.mode != "audit" || suggest != "" {
					return usageError{errors.New("--learn lets everything pass, as --mode audit does, and writes what was seen: leave --mode and --suggest out")}
				}
				f.mode = "audit"
			}
			logged := e
			logs := f.startLogging(&logged)
			defer logs.close()
			o, err := f.options(logged)
			if err != nil {
				return err
			}
			if err := flowLog.options(e, "egressd", &o); err != nil {
				return err
			}
			u, err := userOf(as, e.getenv)
			if err != nil {
				return usageError{err}
			}
			if u == nil && !quiet {
				fmt.Fprintln(logged.stderr, "egressd: the command runs as root, which can leave the policy; --user NAME runs it as somebody who can't")
			}
			x := agent.ExecOptions{Options: o, Run: exec.Options{
				StateRoot: f.stateDir, PinRoot: f.pinDir, Command: args,
				Stdin: e.stdin, Stdout: e.stdout, Stderr: e.stderr,
			}}
			u.run(&x.Run, e.environ(), privileges)
			learned, err := openSuggestions(suggest)
			if err != nil {
				return err
			}
			defer learned.Close()
			lesson, err := openLesson(e, learnTo)
			if err != nil {
				return err
			}
			defer lesson.close()
			if lesson != nil {
				x.Seen = lesson.take
			}
			// Signals go to the command; egressd ends when it has ended.
			ctx := context.WithoutCancel(cmd.Context())
			logs.pipe.Flush(logWait) // what is said before the command says something
			code, denials, err := agent.Exec(ctx, x)
			logs.pipe.Flush(logWait)
			if !quiet && learnTo == "" {
				printDenials(e.stderr, denials, o.Mode.String())
			}
			if err != nil {
				return commandError(e, err)
			}
			if err := errors.Join(writeSuggestions(learned, denials.Suggestions), lesson.write(quiet)); err != nil {
				return err
			}
			if code != 0 {
				return exitError{code}
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false)
	f.register(cmd, "error")
	flowLog.register(cmd)
	cmd.Flags().StringVar(&as, "user", "", "run the command as this user: NAME, UID, NAME:GROUP or UID:GID (default: who called sudo, else root)")
	cmd.Flags().BoolVar(&privileges, "allow-new-privileges", false, "let setuid programs such as sudo give the command privileges, with which it can leave")
	cmd.Flags().StringVar(&suggest, "suggest", "", "write the ServiceEntries that would allow what was denied to this file, among what is there, when the command has ended")
	cmd.Flags().StringVar(&learnTo, "learn", "", "let everything pass (--mode audit), and when the command has ended write the policy that allows what it did to this file, beside what that allows already")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "don't list what was denied, and say nothing about root")
	return cmd
}

// openSuggestions opens the file for suggestions; nil: there is none. It is
// opened before the command runs, which could put a link in its place.
func openSuggestions(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--suggest: %w", err)
	}
	return f, nil
}

// writeSuggestions puts suggestions into a file with the objects that are there.
func writeSuggestions(f *os.File, s explain.Suggestions) error {
	if f == nil {
		return nil
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() { // /dev/stdout, a pipe
		_, err = f.WriteString(quote.Lines(s.YAML()))
		return err
	}
	old, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("--suggest: %w", err)
	}
	text := []byte(quote.Lines(s.YAML()))
	if len(old) > 0 && len(s.Objects) == 0 {
		return nil // nothing is missing in it
	}
	if len(old) > 0 {
		if text, err = istio.Merge(old, text); err != nil {
			return fmt.Errorf("--suggest: %s is left as it is: %w", f.Name(), err)
		}
	}
	if err := overwrite(f, text); err != nil {
		return fmt.Errorf("--suggest: %w", err)
	}
	return nil
}

// overwrite puts text in the place of what a file has.
func overwrite(f *os.File, text []byte) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(text, 0)
	return err
}

// commandError prints why a command was not started, with the exit code for
// that.
func commandError(e env, err error) error {
	for kind, code := range map[error]int{exec.ErrNotFound: exitNotFound, exec.ErrNotExecutable: exitNotExecutable} {
		if errors.Is(err, kind) {
			fmt.Fprintln(e.stderr, "egressd:", quote.Lines(err.Error()))
			if code == exitNotFound && e.getenv("SUDO_USER") != "" {
				fmt.Fprintln(e.stderr, `egressd: sudo has a search path of its own; yours is handed on by: sudo env "PATH=$PATH" egressd exec ...`)
			}
			return exitError{code}
		}
	}
	return err
}
