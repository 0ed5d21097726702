// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

// offlineFlags say how a policy is read where no daemon is asked: what run and exec
// take of the node, these commands are told.
type offlineFlags struct {
	gateway string
	consent []string
	cluster clusterFlags
}

func (f *offlineFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.gateway, "gateway-selector", "", "labels of the node's gateway, as for run")
	registerAllow(cmd, &f.consent)
	f.cluster.register(cmd)
}

// options is what the flags say. An error is one of usage.
func (f *offlineFlags) options() (istio.Options, error) {
	var o istio.Options
	var err error
	if o.GatewaySelector, err = labels(f.gateway); err != nil {
		return o, err
	}
	if o.AllowEndpoints, err = allowed(f.consent); err != nil {
		return o, err
	}
	o.Cluster, o.FindCluster, err = f.cluster.read()
	return o, err
}

// goodPolicy is readPolicy for commands that need a policy without errors: those that
// there are go to standard error, a line each.
func goodPolicy(e env, paths []string, short allowFlags, o istio.Options) (load.Result, error) {
	files, err := readFiles(e, paths)
	if err != nil {
		return load.Result{}, err
	}
	return goodFiles(e, files, short, o)
}

// goodFiles is goodPolicy for files that were read.
func goodFiles(e env, files []istio.File, short allowFlags, o istio.Options) (load.Result, error) {
	allowed, err := short.read()
	if err != nil {
		return load.Result{}, err
	}
	l, err := load.With(append(allowed, files...), o)
	if err == nil {
		return l, nil
	}
	for _, f := range l.Findings {
		if f.Severity == istio.Error {
			printLine(e.stderr, "%s", f)
		}
	}
	return l, err
}
