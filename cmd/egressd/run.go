// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/agent"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/link"
)

func runCommand(e env) *cobra.Command {
	var f policyFlags
	var cgroupPath, gateway, interfaces, services string
	var workloads []string
	var drain time.Duration
	var delegated bool
	var status, health string
	cmd := &cobra.Command{
		Use:   "run --config PATH...",
		Short: "Put the node (or a cgroup) under the policy, until stopped",
		Long: `run captures every process below a cgroup, by default the whole node, and
serves until it gets SIGTERM or SIGINT. Policy files are watched; a change is
in force within a second, a file with errors changes nothing.

When the daemon ends, the kernel goes on with the last policy: proxied
connections and DNS are refused until it is back. "egressd unload" opens.

A start whose policy has errors, or cannot be read, takes the last one that
was in force (/var/lib/egressd/last-good.json, or in a --state-dir of your
own), says so, and takes the new one as soon as it is good.

Ports, all on loopback: 15001 and 15053 take redirected traffic, 15000 is the
read-only admin interface, 15020 has status and metrics, 15021 readiness; the
last two can be put elsewhere. If somebody else has 15001 or 15053, others are
taken.`,
		Example: `  sudo egressd run --config /etc/egressd
  sudo egressd run --config policy.yaml --mode audit
  sudo egressd run --config policy/ --cgroup /sys/fs/cgroup/system.slice/build.service
  sudo egressd run --config gateway/ --gateway-selector istio=ingressgateway`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(e)
			if err != nil {
				return err
			}
			if o.GatewaySelector, err = labels(gateway); err != nil {
				return err
			}
			// Workloads are objects like all others; that they describe the
			// node is why they have a flag of their own.
			o.Config = append(slices.Clone(o.Config), workloads...)
			if o.Cgroup = cgroupPath; o.Cgroup == "" {
				if o.Cgroup, err = cgroup.Root(); err != nil {
					return err
				}
			}
			if o.Guard, err = guardChoice(interfaces, o.Cgroup); err != nil {
				return err
			}
			whole, err := wholeNode(o.Cgroup)
			if err != nil {
				return err
			}
			if o.NodeServices, err = agent.ParseNodeServices(services, whole); err != nil {
				return usageError{fmt.Errorf("--node-services: %w", err)}
			}
			o.Delegated = delegated
			o.StatusAddress, o.HealthAddress = status, health
			o.Workload = "node"
			o.StateDir = f.stateDir
			o.LastGood = agent.DefaultLastGood
			if f.stateDir != agent.DefaultStateDir {
				o.LastGood = filepath.Join(f.stateDir, agent.LastGoodFile)
			}
			o.PinDir = filepath.Join(f.pinDir, agent.NodePins)
			o.Interfaces = true
			o.DrainTime = drain
			a, err := agent.New(cmd.Context(), o)
			if err != nil {
				return err
			}
			return errors.Join(a.Run(cmd.Context(), func() {}), a.Close())
		},
	}
	f.register(cmd, "info")
	cmd.Flags().StringVar(&cgroupPath, "cgroup", "", "capture what is below this cgroup v2 directory (default: the whole node)")
	cmd.Flags().BoolVar(&delegated, "delegated-cgroup", false, "capture a cgroup although somebody other than root owns a cgroup above it, who can move processes out")
	cmd.Flags().StringVar(&interfaces, "interfaces", "auto", "interfaces with workloads at their other end: auto (veths and taps, when the whole node is captured), none, or names as in tap*,vnet0")
	cmd.Flags().StringVar(&services, "node-services", "auto", "cgroups that are not under policy: auto (DHCP clients and network managers, kubelet, container runtime, when the whole node is captured), none, or patterns as in system.slice/dhcpcd.service")
	cmd.Flags().StringSliceVar(&workloads, "workloads", nil, "file or directory of Workloads (egressd.dev/v1): which cgroups are which workload")
	cmd.Flags().DurationVar(&drain, "drain-time", 5*time.Second, "how long requests in flight may go on when the daemon is stopped")
	cmd.Flags().StringVar(&status, "status-address", agent.DefaultStatusAddress, "where status and metrics are served: ADDRESS:PORT, localhost:PORT, or :PORT for all addresses")
	cmd.Flags().StringVar(&health, "health-address", agent.DefaultHealthAddress, "where readiness is served, likewise")
	cmd.Flags().StringVar(&gateway, "gateway-selector", "", "labels of this node's gateway, as in istio=ingressgateway; Gateways that select them get listeners")
	return cmd
}

// guardChoice reads --interfaces. With auto, what is behind veths and taps is
// under policy only when everything on the node is.
func guardChoice(flag, captured string) (link.Choice, error) {
	c, err := link.ParseChoice(flag)
	if err != nil {
		return c, usageError{fmt.Errorf("--interfaces: %w", err)}
	}
	whole, err := wholeNode(captured)
	if c.Auto && !whole {
		c = link.UplinksOnly
	}
	return c, err
}

// wholeNode says whether what is captured is everything.
func wholeNode(captured string) (bool, error) {
	root, err := cgroup.Root()
	return err == nil && sameFile(root, captured), err
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}
