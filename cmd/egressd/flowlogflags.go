// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/internal/flowlog"
)

// flowLogFlags say where the flow log goes.
type flowLogFlags struct {
	to   []string
	size int64
	kept int
}

func (f *flowLogFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVar(&f.to, "flow-log", nil, "where each flow has a line, as \"egressd flows -o json\" prints it: a file, /dev/stdout, /dev/stderr, journald, syslog, syslog:SOCKET, or a collector of OTLP as http://ADDRESS:PORT, https://... or grpc://ADDRESS:PORT; may be given several times (default: nowhere)")
	fs.Int64Var(&f.size, "flow-log-size", 100, "size in MiB at which a file is renamed to FILE.1 and a new one is begun; 0: never")
	fs.IntVar(&f.kept, "flow-log-keep", 5, "how many such old files stay")
}

// options says what the flags want; service is the name that a collector gets.
func (f *flowLogFlags) options(e env, service string, o *agent.Options) error {
	if f.size < 0 || f.kept < 0 {
		return usageError{errors.New("--flow-log-size and --flow-log-keep are 0 or more")}
	}
	o.FlowLog = flowlog.Options{To: f.to, Size: f.size * megabyte, Kept: f.kept, Service: service, Stdout: e.stdout, Stderr: e.stderr}
	if err := o.FlowLog.Check(); err != nil {
		return usageError{fmt.Errorf("--flow-log: %w", err)}
	}
	return nil
}
