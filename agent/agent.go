// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/containers"
	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/earlier"
	"github.com/egressd/egressd/agent/events"
	"github.com/egressd/egressd/agent/govern"
	"github.com/egressd/egressd/agent/iface"
	"github.com/egressd/egressd/agent/kubernetes"
	"github.com/egressd/egressd/agent/learnedfile"
	"github.com/egressd/egressd/agent/lifecycle"
	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/observe"
	"github.com/egressd/egressd/agent/resolve"
	"github.com/egressd/egressd/agent/resources"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/agent/takeover"
	"github.com/egressd/egressd/agent/teardown"
	"github.com/egressd/egressd/agent/upkeep"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/ingress"
	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/internal/flowlog"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/sdnotify"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/policy/source"
	"github.com/egressd/egressd/policy/source/kubestatus"
)

// Agent is a running egressd. Make one with New, run it with Run.
type Agent struct {
	opts       Options
	log        *slog.Logger
	lock       *os.File // of the state directory
	pinLock    *bpffs.PinLock
	datapath   *loader.Datapath
	recorder   *events.Recorder
	kernel     *events.Kernel
	observers  *observe.Audience // nil: none
	flowLog    *flowlog.FlowLog  // nil: none
	addresses  ipguard.Addresses // of the node
	names      *learned.Names
	dns        *dnsproxy.Server
	nodeDNS    *resolve.Follower
	outgoing   *forward.Core
	incoming   *ingress.Ingress
	sockets    *listen.Set
	devices    *listen.Devices
	started    time.Time
	ready      *lifecycle.Readiness
	watcher    *source.Watcher
	control    *control.Control
	kubernetes *kubernetes.APIServer // nil: there is none
	publisher  *kubestatus.Publisher // likewise
	narrow     control.Narrow
	guards     *iface.Guards
	capture    *workload.Capture
	workloads  *workload.Binding
	containers *containers.Directory
	earlier    *earlier.Earlier
	governor   *govern.Governor
	upkeep     *upkeep.Upkeep
	surfaces   admin.Surfaces
	limits     *resources.Shares
	pins       pins
	stock      *certs.Stock
	holding    *hold.Keeper
	manager    *sdnotify.Manager // nil: none
	life       *lifecycle.Lifecycle
	// begun is what a start that fails takes back.
	begun *teardown.Start
	probe *selfprobe.Probe
	// fills is how full the kernel's tables are; to count is expensive.
	fills admin.Recently[map[string]loader.Fill]
	// remembered keeps what was learned; nil: nothing does.
	remembered *learnedfile.Store
	// identify finds who is behind a connection that arrived at the proxy.
	identify func(*net.TCPConn) (forward.Conn, error)
	// inherited are sockets of an earlier daemon that nobody took yet.
	inherited *handover.SocketSet
	// holder is the daemon that this one takes over from, nil: none. heirs are
	// those that are prepared to take over from this one; gone says that one has,
	// and the state directory is not this one's.
	holder *takeover.Incumbent
	heirs  chan *handover.Channel
	gone   atomic.Bool
	// preparing says that a daemon prepares to take over from this one.
	preparing atomic.Bool

	// unload is closed when somebody asked for everything to be removed.
	unload     chan struct{}
	unloadOnce sync.Once
}

// Unload removes everything from the kernel: the workload is free again.
func (a *Agent) Unload() error { return a.datapath.Unload() }

// Reopen opens files that lines are written to anew, after somebody moved them away.
func (a *Agent) Reopen() {
	a.observers.Reopen()
	a.flowLog.Reopen()
}

// Reload reads the policy again, as if its files had changed. It does not wait.
func (a *Agent) Reload() { a.life.Reload() }
