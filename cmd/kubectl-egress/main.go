// SPDX-License-Identifier: Apache-2.0

// Command kubectl-egress is "kubectl egress": it asks the egressd of every node at
// once, and removes egressd from all of them. It calls kubectl, whose credentials and
// flags it uses, and runs wherever kubectl does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/quote"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, env{os.Stdin, os.Stdout, os.Stderr, execute}, os.Args[1:])
	stop()
	os.Exit(code)
}

// env is what the plugin sees of the world, so that tests can call it.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// kubectl runs kubectl.
	kubectl func(ctx context.Context, c call) error
}

// usageError marks a wrong command line: exit code 2.
type usageError struct{ error }

// errSaid says that everything was printed.
var errSaid = errors.New("some nodes failed")

// run is the whole program. The exit code is 1 for a failure, also of one node, and 2
// for wrong usage.
func run(ctx context.Context, e env, args []string) int {
	cmd := root(e)
	cmd.SetArgs(args)
	cmd.SetIn(e.stdin)
	cmd.SetOut(e.stdout)
	cmd.SetErr(e.stderr)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errSaid):
		return 1
	}
	fmt.Fprintf(e.stderr, "kubectl egress: %s\n", quote.Lines(err.Error()))
	if errors.As(err, new(usageError)) {
		return 2
	}
	return 1
}

func root(e env) *cobra.Command {
	c := &cluster{env: e}
	cmd := &cobra.Command{
		Use:   "egress",
		Short: "egressd on every node at once",
		Long: `kubectl egress asks the egressd of every node: what is its state (status), what was
decided (flows), and what becomes of a pod's connection (explain). uninstall removes
egressd from all nodes. A node that does not answer is named, and the exit code is 1.

It calls kubectl, and needs its right to exec into egressd's pods.`,
		Example: `  kubectl egress status
  kubectl egress flows -n shop --verdict deny
  kubectl egress explain --pod shop/web-0 https://api.example.com/v1
  kubectl egress uninstall`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl egress"},
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return usageError{errors.New("say what to do: status, flows, explain or uninstall")}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	fs := cmd.PersistentFlags()
	fs.StringVar(&c.kubeconfig, "kubeconfig", "", "kubectl's --kubeconfig")
	fs.StringVar(&c.context, "context", "", "kubectl's --context")
	fs.StringVar(&c.namespace, "egressd-namespace", "egressd-system", "where egressd is installed")
	fs.DurationVar(&c.timeout, "timeout", 15*time.Second, "how long a node may take to answer")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.AddCommand(statusCommand(c), flowsCommand(c), explainCommand(c), uninstallCommand(c))
	return cmd
}

// usageArgs turns cobra's argument errors into usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// registerOutput adds the -o flag.
func registerOutput(cmd *cobra.Command, out *string) {
	cmd.Flags().StringVarP(out, "output", "o", "text", "text or json")
}

// isJSON reads -o.
func isJSON(out string) (bool, error) {
	switch out {
	case "text", "json":
		return out == "json", nil
	}
	return false, usageError{fmt.Errorf("-o is text or json, not %q", out)}
}
