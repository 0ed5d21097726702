// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os/exec"

	"github.com/spf13/cobra"
)

func explainCommand(c *cluster) *cobra.Command {
	var pod, out, method string
	var headers []string
	cmd := &cobra.Command{
		Use:   "explain --pod NAMESPACE/NAME TARGET",
		Short: "Say what becomes of a pod's connection, and why",
		Long: `explain asks the egressd of the pod's node, as "egressd explain" does. TARGET is a URL,
HOST:PORT or IP:PORT. The exit code is 1 when it is denied.`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := isJSON(out); err != nil {
				return err
			}
			if pod == "" {
				return usageError{errors.New("say whose connection it is: --pod NAMESPACE/NAME")}
			}
			n, err := c.nodeOf(cmd.Context(), pod)
			if err != nil {
				return err
			}
			ask := []string{"explain", "--pod", pod, "-o", out}
			if method != "" {
				ask = append(ask, "-X", method)
			}
			for _, h := range headers {
				ask = append(ask, "-H", h)
			}
			err = c.kubectl(cmd.Context(), call{c.egressd(n, append(ask, "--", args[0])...), nil, c.stdout, c.stderr})
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				return errSaid // by egressd, or by kubectl
			}
			if err != nil {
				return fmt.Errorf("node %s: %w", n.Name, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&pod, "pod", "", "the pod, as NAMESPACE/NAME")
	cmd.Flags().StringVarP(&method, "method", "X", "", "the request's method")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "a header of the request, as in 'NAME: VALUE'")
	registerOutput(cmd, &out)
	return cmd
}
