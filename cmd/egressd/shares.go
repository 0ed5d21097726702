// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
)

// limitFlags are what bounds proxied connections.
type limitFlags struct{ agent.ConnectionLimits }

func (f *limitFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.IntVar(&f.WorkloadConnections, "workload-connections", 0, "how many proxied connections one workload may have open; 0: as many as its share of descriptors, memory and ports allows")
	fs.DurationVar(&f.PeekTimeout, "peek-timeout", 10*time.Second, "how long the first bytes of a proxied connection, and the head of a request, may take")
	fs.DurationVar(&f.IdleTimeout, "idle-timeout", time.Hour, "after how long without traffic a proxied connection is closed, also a half-closed one")
	fs.DurationVar(&f.StallTimeout, "stall-timeout", 5*time.Minute, "after how long a request ends whose client does not send the rest of it or take its answer, or whose upstream does not take its body")
	fs.DurationVar(&f.MaxStreamDuration, "max-stream-duration", 0, "how long a request may be under way with its answer, or an upgraded connection, however much moves; 0: as long as it likes")
	fs.StringVar(&f.Locality, "locality", "", `where the node is, for the locality settings of DestinationRules: "region/zone/subzone" or a beginning of it; empty: they have no effect`)
	fs.DurationVar(&f.RecycleTimeout, "recycle-timeout", time.Minute, "how long a proxied connection must be idle to be closed for a new one of its workload, when the workload uses all that it may")
}

func (f *limitFlags) options(o *agent.Options) error {
	if f.WorkloadConnections < 0 {
		return errors.New("--workload-connections: it must not be negative")
	}
	if f.PeekTimeout <= 0 || f.IdleTimeout <= 0 || f.StallTimeout <= 0 || f.RecycleTimeout <= 0 {
		return errors.New("--peek-timeout, --idle-timeout, --stall-timeout and --recycle-timeout must be more than nothing")
	}
	if f.MaxStreamDuration < 0 {
		return errors.New("--max-stream-duration: it must not be negative; 0 is no bound")
	}
	if parts := strings.Split(f.Locality, "/"); f.Locality != "" && (len(parts) > 3 || slices.Contains(parts, "") || strings.Contains(f.Locality, "*")) {
		return errors.New(`--locality: write "region", "region/zone" or "region/zone/subzone"`)
	}
	o.Limits = f.ConnectionLimits
	return nil
}

// printShare shows what a workload has of what all share, as far as it has any.
func printShare(row func(k, format string, args ...any), s agent.WorkloadShare) {
	key := "share"
	if s.Full {
		key = "SHARE FULL"
	}
	if s.Connections.Used == 0 && s.Redirected.Entries == 0 && !s.Full {
		return
	}
	row(key, "%d of %d connections, %d of %d descriptors, %d of %d MB; %d of %d redirected in the node's namespace%s",
		s.Connections.Used, s.Connections.Max, s.Descriptors.Used, s.Descriptors.Max, s.Memory.Used>>20, s.Memory.Max>>20,
		s.Redirected.Entries, s.Redirected.Max, map[bool]string{true: "; more are refused (quota)"}[s.Full])
}
