// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/loader"
)

// tableFlags bound the kernel's tables.
type tableFlags struct{ addresses, flows int }

func (f *tableFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.IntVar(&f.addresses, "max-addresses", loader.DefaultAddresses, "how many addresses the kernel's tables may grow to, of the policy and learned by DNS; names and endpoints: a quarter of it")
	fs.IntVar(&f.flows, "max-flows", loader.DefaultFlows, "how many flows of interfaces, and connections to endpoints of services, the kernel's tables have room for; a change drops what is known of open flows of interfaces")
}

func (f *tableFlags) options(o *agent.Options) error {
	for _, n := range []struct {
		flag         string
		value, least int
	}{{"max-addresses", f.addresses, loader.MinAddresses}, {"max-flows", f.flows, loader.MinFlows}} {
		if n.value < n.least || n.value > loader.MaxSize {
			return fmt.Errorf("--%s is from %d to %d, not %d", n.flag, n.least, loader.MaxSize, n.value)
		}
	}
	o.Sizes = loader.Sizes{Addresses: f.addresses, Flows: f.flows}
	return nil
}
