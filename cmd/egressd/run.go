// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/containers"
	"github.com/egressd/egressd/agent/iface"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/internal/localsocket"
	"github.com/egressd/egressd/internal/privilege"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy"
)

const runName = "run"

func runCommand(e env) *cobra.Command {
	var f policyFlags
	var k kubernetesFlags
	var pods podFlags
	var observed observeFlags
	var flowLog flowLogFlags
	var gateway, interfaces, services, runtimes string
	var cgroups, units, workloads []string
	var drain, every time.Duration
	var delegated, volatilePins, takeover, stay bool
	var onFailure string
	var status, health, admin, adminGroup string
	var adminRemote bool
	var socketDir string
	cmd := &cobra.Command{
		Use:   runName + " --config PATH...|--allow HOST...",
		Short: "Put the node (or a cgroup) under the policy, until stopped",
		Long: `run captures every process below a cgroup, by default the whole node, and
serves until it gets SIGTERM or SIGINT. It watches the policy files: a file that is
moved into its place takes effect at once, one that is written there a second after
the last write. Files with errors, or without policy objects, change nothing. SIGHUP
makes it read them again.

--unit and --cgroup name what is captured. It need not exist yet. If it goes and
comes back (a unit that is restarted, a container that is created again), it is
under the policy from its first instruction, whether the daemon runs or not. For
that the programs are attached to the outermost cgroup around it, such as
system.slice; what else is there is not captured. If the outermost cgroup itself
goes, egressd captures it again as soon as it is back, and is not ready until then.

With --kubernetes the policy is what the API server has (Istio's objects, the Gateway
API's, Services), beside files of --config, and this node's pods are the workloads:
the label egressd.dev/mode of a pod or of its namespace says enforce, audit or off,
and where none does --mode. An object with an error is left out alone, and its last
good version stays in force. While the API server is away all stays as it is; a
start goes on with the last policy that was in force.

With --takeover a daemon takes over from one that runs on the same --state-dir and
--pin-dir, which may be of another version. It gets the sockets, and serves when it
is prepared; connections that are open in the other daemon may continue there for
that one's --drain-time. If the new daemon fails, or its policy has errors, the
other one goes on serving. Where no daemon runs, this one just starts.

When the daemon ends, the kernel goes on with the last policy: proxied connections
and DNS are refused until a daemon is back. "egressd unload" opens all traffic.

If the policy has errors at the start, or cannot be read, the daemon uses the last
one that was in force (/var/lib/egressd/last-good.json, or in a --state-dir of your
own), logs that, and takes the new one as soon as it is good.

If a start fails, the kernel stays as it was: under the policy of the last run, or
open if there was none (after a boot). With --on-failure lock nothing gets out then
but loopback, the node's own addresses and answers to clients that connect to it.
The exit code is 3 when the start failed and all is open, 4 when traffic is held.

Ports, all on loopback: 15001 and 15053 take redirected traffic, 15020 has status
and metrics, 15021 readiness; the last two can be put elsewhere. If another process
has 15001 or 15053, the daemon uses other ports.

flows, explain, status and unload talk to the daemon by a unix socket in
--state-dir. Only root may use it; the members of --admin-group may read. With
--admin-address they may read the same by TCP.`,
		Example: `  sudo egressd run --config /etc/egressd
  sudo egressd run --config policy.yaml --mode audit
  sudo egressd run --allow-file /etc/egressd/allowed.txt --unit build.service
  sudo egressd run --config policy/ --unit build.service
  sudo egressd run --kubernetes --kubeconfig /etc/kubernetes/kubelet.conf --mode off
  sudo egressd run --config policy/ --cgroup /sys/fs/cgroup/system.slice/build.service
  sudo egressd run --config gateway/ --gateway-selector istio=ingressgateway`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if printed, err := f.short.printed(e.stdout); printed {
				return err
			}
			e := e
			logs := f.startLogging(&e)
			defer logs.close()
			podMode, own, err := k.mode(f.mode)
			if err != nil {
				return err
			}
			f.mode, f.noConfig = own, k.on
			o, err := f.options(e)
			if err != nil {
				return err
			}
			if err := k.options(&o, podMode, pods.system); err != nil {
				return err
			}
			if o.GatewaySelector, err = labels(gateway); err != nil {
				return err
			}
			if err := socketOptions(&o, f.stateDir, socketDir, k.on); err != nil {
				return err
			}
			// Workloads are objects like all others; that they describe the
			// node is why they have a flag of their own.
			o.Config = append(slices.Clone(o.Config), workloads...)
			o.LogDropped = logs.pipe.Dropped
			if o.Log, o.Levels, err = f.levels(e); err != nil {
				return err
			}
			if err := observed.options(e, &o); err != nil {
				return err
			}
			if err := flowLog.options(e, observed.traces.Service, &o); err != nil {
				return err
			}
			o.Delegated, o.VolatilePins = delegated, volatilePins
			o.StatusAddress, o.HealthAddress = status, health
			o.AdminAddress, o.AdminRemote = admin, adminRemote
			if o.AdminGroup, err = groupID(adminGroup); err != nil {
				return usageError{err}
			}
			if o.LockOnFailure, err = lockOnFailure(onFailure, o.Mode); err != nil {
				return err
			}
			o.Workload = "node"
			o.StateDir = f.stateDir
			o.LastGood = agent.DefaultLastGood
			if f.stateDir != agent.DefaultStateDir {
				o.LastGood = filepath.Join(f.stateDir, agent.LastGoodFile)
			}
			o.PinDir = filepath.Join(f.pinDir, agent.NodePins)
			o.Daemon = true
			o.DrainTime = drain
			pods.pods = pods.pods || k.on && len(cgroups)+len(units) == 0
			if err := pods.set(&o, len(cgroups)+len(units) > 0); err != nil {
				return err
			}
			if err := privilege.Check(privilege.Needed(gateway != "")); err != nil {
				return notStarted(e, agent.NotStarted(o, err))
			}
			if err := captureOptions(cmd.Context(), &o, cgroups, units, interfaces, services); err != nil {
				if errors.As(err, new(usageError)) {
					return err
				}
				return notStarted(e, agent.NotStarted(o, err))
			}
			if o.ContainerSockets, err = containers.ParseSockets(runtimes); err != nil {
				return usageError{fmt.Errorf("--container-runtimes: %w", err)}
			}
			o.Takeover = takeover
			if o.Probe, err = probeOptions(every); err != nil {
				return err
			}
			// What comes while it starts is done when it is ready.
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer func() { signal.Stop(reload); close(reload) }()
			defer outlive(syscall.SIGUSR1, syscall.SIGUSR2)()
			unwatch := func() {}
			err = agent.Serve(cmd.Context(), o, func(a *agent.Agent) {
				unwatch = onSignal(reopens, a.Reopen)
				go func() {
					for range reload {
						a.Reload()
					}
				}()
			})
			unwatch()
			if err == nil && stay && agent.Stay(cmd.Context(), o) {
				o.Log.Warn("the egressd that had taken over has ended, and this one starts again", "traffic", "what needs the proxy or DNS is refused until it is ready")
				err = unix.Exec("/proc/self/exe", os.Args, os.Environ())
			}
			return notStarted(e, err)
		},
	}
	f.register(cmd, "info")
	k.register(cmd)
	pods.register(cmd)
	observed.register(cmd)
	flowLog.register(cmd)
	cmd.Flags().StringArrayVar(&cgroups, "cgroup", nil, "capture what is below this cgroup v2 directory, which need not exist yet (default: the whole node); may be given several times")
	cmd.Flags().StringArrayVar(&units, "unit", nil, "capture a systemd unit, as in shop.service; SLICE/UNIT says where it is if it is not where systemd says or puts units; may be given several times")
	cmd.Flags().BoolVar(&delegated, "delegated-cgroup", false, "capture a cgroup although a cgroup above it has another owner than root, who can move processes out")
	cmd.Flags().BoolVar(&volatilePins, "volatile-pins", false, "enforce although the bpf filesystem ends with egressd (a container's or unit's own): all traffic is open when egressd is killed")
	cmd.Flags().StringVar(&onFailure, "on-failure", "open", "what a failed start leaves when no policy is in force: open, or lock, which denies everything until a start succeeds or \"egressd unload\" is run")
	cmd.Flags().StringVar(&interfaces, "interfaces", "auto", "interfaces with workloads at their other end: auto (veths and taps, when the whole node is captured), none, or names as in tap*,vnet0")
	cmd.Flags().StringVar(&services, "node-services", "auto", "cgroups that are not under policy: auto (DHCP clients and network managers, kubelet, container runtime, when the whole node is captured), none, or patterns as in system.slice/dhcpcd.service")
	cmd.Flags().StringVar(&runtimes, "container-runtimes", "auto", "who is asked what containers are, when a Workload selects some: auto (docker, podman and containerd at their usual sockets), none, or a list as in docker,podman=/run/podman/podman.sock")
	listVar(cmd.Flags(), &workloads, "workloads", "file or directory of Workloads (egressd.dev/v1): which cgroups are which workload")
	cmd.Flags().DurationVar(&drain, "drain-time", agent.DefaultDrainTime, "how long open connections may continue when the daemon is stopped or another one has taken over")
	cmd.Flags().BoolVar(&takeover, "takeover", false, "take over from the daemon that runs on --state-dir, without a gap")
	cmd.Flags().BoolVar(&stay, "stay", false, "when another daemon has taken over, go on without doing anything until SIGTERM, and start again if that one ends: for a container that would be started again, and take over in its turn")
	cmd.Flags().DurationVar(&every, "probe-interval", selfprobe.DefaultInterval, "how often the daemon tries DNS and the proxy as a workload does; after three rounds without an answer it is not ready; 0: never")
	cmd.Flags().StringVar(&status, "status-address", agent.DefaultStatusAddress, "where status and metrics are served: ADDRESS:PORT, localhost:PORT, or :PORT for all addresses")
	cmd.Flags().StringVar(&health, "health-address", agent.DefaultHealthAddress, "where readiness is served: as for --status-address")
	cmd.Flags().StringVar(&adminGroup, "admin-group", "", "group, by name or number, whose members may read flows, status and explain (default: only root may)")
	cmd.Flags().StringVar(&admin, "admin-address", "", "serve flows, status, explain, the policy, a web page (/ui/) and what Envoy has at its admin port by TCP as well, as in localhost:15000: processes of root and of --admin-group that are not captured may read them")
	cmd.Flags().BoolVar(&adminRemote, "admin-remote", false, "allow an --admin-address that is not on loopback: everybody who reaches it can read, without authentication")
	cmd.Flags().StringVar(&socketDir, "gateway-socket-dir", "", "directory below which Gateways may listen on unix sockets (bind: unix:///PATH): root's alone, and its group may connect; without it there are none")
	cmd.Flags().StringVar(&gateway, "gateway-selector", "", "labels of this node's gateway, as in istio=ingressgateway; Gateways that select them get listeners")
	return cmd
}

// socketOptions reads the flags about unix sockets.
func socketOptions(o *agent.Options, stateDir, dir string, kubernetes bool) error {
	if err := state.CheckSockets(stateDir); err != nil {
		return usageError{err}
	}
	for _, e := range o.AllowEndpoints {
		if kubernetes && e.Unix != "" {
			return usageError{fmt.Errorf("--allow-endpoint %v cannot be used with --kubernetes: everybody who may write a ServiceEntry in the cluster could lead workloads to that socket, as root of this node; let the program listen on an address", e)}
		}
	}
	if dir != "" && (!filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/") {
		return usageError{fmt.Errorf("--gateway-socket-dir: %q is not the absolute path of a directory, without dots and double slashes", dir)}
	}
	if err := localsocket.CheckPath(dir + "/x"); dir != "" && err != nil {
		return usageError{fmt.Errorf("--gateway-socket-dir: no socket could be in it: %w; choose a shorter one", err)}
	}
	o.GatewaySocketDir = dir
	return nil
}

// captureOptions reads the flags that say what is captured.
func captureOptions(ctx context.Context, o *agent.Options, cgroups, units []string, interfaces, services string) (err error) {
	if o.Pods == nil {
		o.Cgroups, err = workload.Named(ctx, cgroups, units)
	}
	if err != nil {
		if errors.As(err, new(*workload.UnitError)) {
			return usageError{fmt.Errorf("--unit: %w", err)}
		}
		return err
	}
	whole, err := workload.Whole(o.Cgroups)
	if err != nil {
		return err
	}
	if o.Guard, err = iface.ParseChoice(interfaces, whole); err != nil {
		return usageError{fmt.Errorf("--interfaces: %w", err)}
	}
	if o.NodeServices, err = workload.ParseNodeServices(services, whole); err != nil {
		return usageError{fmt.Errorf("--node-services: %w", err)}
	}
	return nil
}

// lockOnFailure reads --on-failure.
func lockOnFailure(s string, mode policy.Mode) (bool, error) {
	switch {
	case s == "open":
		return false, nil
	case s != "lock":
		return false, usageError{fmt.Errorf("--on-failure is open or lock, not %q", s)}
	case mode != policy.Enforce:
		return false, usageError{fmt.Errorf("--on-failure lock denies everything, and --mode %s nothing: leave one of them out", mode)}
	}
	return true, nil
}

// notStarted gives the error of a start that failed its exit code.
func notStarted(e env, err error) error {
	failed := (*agent.StartError)(nil)
	if !errors.As(err, &failed) {
		return err
	}
	e.fail(fmt.Sprintf("egressd: %s\n", quote.Lines(err.Error())))
	if failed.Held {
		return exitError{exitNotStartedHeld}
	}
	return exitError{exitNotStarted}
}

// outlive keeps signals from ending this process, but not those that it starts,
// until the function that it returns is called. SIGPIPE comes when whoever reads
// the log is gone.
func outlive(signals ...os.Signal) (stop func()) {
	c := make(chan os.Signal, 1) // nobody reads it
	signal.Notify(c, signals...)
	return func() { signal.Stop(c) }
}

// groupID looks up a group by name or number; "" is 0.
func groupID(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	id := name
	if g, err := user.LookupGroup(name); err == nil {
		id = g.Gid
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("--admin-group: no group %q", name)
	}
	return uint32(n), nil
}
