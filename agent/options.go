// SPDX-License-Identifier: Apache-2.0

// Package agent wires the rooms and its own parts, which are the packages below it,
// into a running egressd: it starts, serves, hands over and stops them, and applies
// policy changes in the order that never opens a gap.
package agent

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/observe"
	"github.com/egressd/egressd/agent/resolve"
	"github.com/egressd/egressd/agent/resources"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/internal/flowlog"
	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/internal/loglevel"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/source"
	"github.com/egressd/egressd/policy/source/kube"
)

// Defaults of the daemon's places. Tests and the demo use others.
const (
	DefaultStateDir = "/run/egressd"
	DefaultPinRoot  = bpffs.Root + "/egressd"
	// DefaultLastGood outlives a boot, unlike the state directory.
	DefaultLastGood = "/var/lib/egressd/" + LastGoodFile
	// DefaultCredentials has the private keys and tokens that policy files name.
	DefaultCredentials = "/etc/egressd/credentials"
	// LastGoodFile is the file's name in a state directory of one's own.
	LastGoodFile = state.LastGoodFile
	// NodePins is the daemon's pin directory, below the pin root.
	NodePins = state.NodePins
	// AdminSocket and LockFile are files of the state directory.
	AdminSocket = state.AdminSocket
	LockFile    = state.LockFile
)

// Where the status and readiness interfaces are by default: loopback of each
// family.
const (
	DefaultStatusAddress = "localhost:15020"
	DefaultHealthAddress = "localhost:15021"
)

// Options configure an Agent. They are read once.
type Options struct {
	// Config are the files and directories with the policy; none are an empty
	// policy, which audit mode may have, and AllowEmptyPolicy allows.
	Config []string
	// Allow is the part of the policy in its short form; it goes with Config.
	Allow source.Allow
	Mode  policy.Mode
	// AllowEmptyPolicy lets Config that has no policy objects any more (an empty
	// directory, too) take the place of one that had some: all is denied.
	AllowEmptyPolicy bool
	// Cgroups are the cgroup v2 directories whose processes are captured. Run
	// captures them also if they come later, and when they come back.
	Cgroups []string
	// Pods captures the pods of the node instead, wherever the kubelet has their cgroups;
	// those that no Workload describes may reach nothing. nil: Cgroups are captured.
	Pods *workload.PodOptions
	// ContainerSockets are where the container runtimes listen that are asked what
	// containers are; Run asks them when a Workload selects containers.
	ContainerSockets map[container.Runtime]string
	// Delegated captures a cgroup although somebody other than root may take
	// processes out of it.
	Delegated bool
	// Workload is the name of those processes in events.
	Workload string
	StateDir string
	PinDir   string
	// LockOnFailure denies everything, until a start succeeds or Unload, when a start
	// fails and no policy is in force.
	LockOnFailure bool
	// VolatilePins accepts a PinDir that ends with the process: with it the
	// workload is free.
	VolatilePins bool
	// LastGood is the file that keeps the configuration in force for a start
	// with a broken one; empty: none is kept.
	LastGood string
	// DNSServers are the trusted servers; empty: those of the node's
	// resolv.conf, which is followed.
	DNSServers []netip.AddrPort
	// DNSTimeout and DNSAttempts are dnsproxy.Upstreams's; 0: those of the
	// node's resolv.conf, or the defaults. DNSStale is how long old answers are
	// good while no server answers; 0: not at all.
	DNSTimeout  time.Duration
	DNSAttempts int
	DNSStale    time.Duration
	// DNSDenied is how a name that is not allowed is answered.
	DNSDenied dnsproxy.DeniedAnswer
	// DNSMinTTL and DNSMaxTTL bound the time that an answer counts, DNSGrace is
	// how long its addresses stay open after that; 0: the defaults.
	DNSMinTTL, DNSMaxTTL, DNSGrace time.Duration
	// Kubernetes is the API server that has the rest of the policy, and this node's
	// pods; nil: there is none.
	Kubernetes *kube.Options
	// KubernetesNamespace is the namespace of egressd's own pods, which has the Lease of
	// the daemon that writes statuses.
	KubernetesNamespace string
	// CredentialDirs are where private keys and tokens may be that policies on disk name,
	// of Gateways as well.
	CredentialDirs []string
	// AllowEndpoints are the node-local endpoints that the policy may lead to.
	AllowEndpoints []policy.AllowedEndpoint
	// Cluster is what is inside of the node's Kubernetes cluster; FindCluster
	// adds what the policy's objects say of that.
	Cluster     policy.Cluster
	FindCluster bool
	// GatewaySelector are the labels that the ingress side carries.
	GatewaySelector map[string]string
	// GatewaySocketDir is the directory below which Gateways may listen on unix sockets;
	// empty: nowhere.
	GatewaySocketDir string
	// Daemon is for the daemon of a node (run): it has fixed ports and the admin,
	// status and readiness interfaces, binds the Workloads that the policy
	// describes, and keeps state for its next start. Without it this is the
	// gateway of one command (exec).
	Daemon bool
	// StatusAddress and HealthAddress are where status and metrics, and
	// readiness are served: ADDRESS:PORT, localhost:PORT, or :PORT for all
	// addresses. Empty: DefaultStatusAddress and DefaultHealthAddress.
	StatusAddress, HealthAddress string
	// AdminAddress is where the admin interface is served by TCP as well, to
	// processes of root and of AdminGroup that are not captured; empty: nowhere. It
	// must be on loopback unless AdminRemote is set, which serves everybody.
	AdminAddress string
	AdminRemote  bool
	// AdminGroup may read at the admin socket; 0: only root may.
	AdminGroup uint32
	// NodeServices are cgroups that are not under policy, unless a Workload
	// describes them.
	NodeServices []cgroup.PathPattern
	// Guard says which network interfaces have workloads at their other end;
	// the zero value guards none, and no uplink.
	Guard link.Choice
	// Sizes bound the kernel's tables.
	Sizes loader.Sizes
	// Takeover takes the place of a daemon that runs on the state directory,
	// without a gap. Without one it changes nothing.
	Takeover bool
	// DrainTime bounds how long what is open may go on when the daemon ends; 0:
	// DefaultDrainTime. Exec, whose command has ended before, waits 5 s at most.
	DrainTime time.Duration
	// Limits bound what proxied connections may take.
	Limits ConnectionLimits
	// Probe says how run probes itself.
	Probe selfprobe.Options
	// Observe says who is told of requests and connections that have ended.
	Observe observe.Options
	// FlowLog says where lines of all flows go; its zero value: nowhere.
	FlowLog flowlog.Options
	Version string
	Log     *slog.Logger
	// Levels are those of Log, which may be changed; nil: they can't.
	Levels *loglevel.Levels
	// Profile has the admin interface show profiles of the process.
	Profile bool
	// LogDropped is how many lines of the log nobody took; nil: none.
	LogDropped func() uint64

	// locks says that nothing is to be allowed; see Lock.
	locks bool
}

func (o *Options) validate() error {
	if len(o.Config) == 0 && o.Allow.Empty() && o.Mode != policy.Audit && o.Kubernetes == nil && !o.AllowEmptyPolicy && !o.locks {
		return errors.New("no policy: give at least one --config FILE or DIRECTORY, or name destinations with --allow HOST, or learn one with --mode audit, or deny everything with --allow-empty-policy")
	}
	if o.DrainTime <= 0 {
		o.DrainTime = DefaultDrainTime
		if !o.Daemon {
			o.DrainTime = execDrainTime
		}
	}
	o.StatusAddress = cmp.Or(o.StatusAddress, DefaultStatusAddress)
	o.HealthAddress = cmp.Or(o.HealthAddress, DefaultHealthAddress)
	for _, address := range []string{o.StatusAddress, o.HealthAddress} {
		if _, err := admin.Addresses(address); err != nil {
			return err
		}
	}
	if err := o.validateAdmin(); err != nil {
		return err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Levels == nil {
		o.Levels = loglevel.New(slog.LevelInfo)
	}
	if len(o.Cgroups) == 0 && o.Pods == nil {
		return errors.New("no cgroup to capture")
	}
	for _, dir := range o.Cgroups {
		if _, err := cgroup.Resolve(dir); err != nil {
			return fmt.Errorf("the cgroup to capture: %w", err)
		}
		if err := workload.CheckHeld(dir, o.Delegated); err != nil {
			return err
		}
	}
	return nil
}

// Scopes are the parts of the log with levels of their own.
func Scopes() []string { return []string{scopeDNS, scopeGateway, scopePolicy, scopeProxy} }

const (
	scopeDNS     = "dns"
	scopeGateway = "gateway"
	scopePolicy  = "policy"
	scopeProxy   = "proxy"
)

// observed are the options of who is told of what has ended.
func (o *Options) observed(snapshot func() *policy.Snapshot) observe.Options {
	out := o.Observe
	out.Snapshot, out.Rand, out.Log = snapshot, rand.Uint64, o.Log
	return out
}

func (o *Options) podOptions() workload.PodOptions {
	if o.Pods == nil {
		return workload.PodOptions{}
	}
	return *o.Pods
}

// validateAdmin checks where the admin interface is to be.
func (o *Options) validateAdmin() error {
	if o.AdminAddress == "" {
		return nil
	}
	addrs, err := admin.Addresses(o.AdminAddress)
	if err != nil {
		return err
	}
	if !admin.OnLoopback(addrs) && !o.AdminRemote {
		return fmt.Errorf("--admin-address %s is not on loopback: everybody who reaches it would read the policy and who connects where, without authentication; name localhost:PORT, or insist with --admin-remote", o.AdminAddress)
	}
	return nil
}

// adminPort is the port of the admin interface, 0 when it is not served.
func (o *Options) adminPort() uint16 {
	return admin.Port(o.AdminAddress) // it was checked
}

// nodeDNS are the options about DNS servers; loops says which of them are egressd's
// own.
func (o *Options) nodeDNS(loops func(netip.AddrPort) bool) resolve.Options {
	return resolve.Options{
		Files: dnsproxy.NodeFiles, None: o.locks, Loops: loops, Log: o.Log,
		Given: dnsproxy.Upstreams{Servers: o.DNSServers, Timeout: o.DNSTimeout, Attempts: o.DNSAttempts},
	}
}

// ConnectionLimits bound what proxied connections may take.
type ConnectionLimits = resources.ConnectionLimits

// tableSizes are the sizes of the tables, of which a daemon that guards no
// interface has none for their flows.
func (o *Options) tableSizes() loader.Sizes {
	s := o.Sizes
	s.NoInterfaces = !o.Guard.Workloads()
	return s
}

// Defaults of Options.DrainTime: a daemon's (Istio's proxies have as much,
// drainDuration), and that of exec, where clients have ended and only servers could
// still want something.
const (
	DefaultDrainTime = 45 * time.Second
	execDrainTime    = 5 * time.Second
)
