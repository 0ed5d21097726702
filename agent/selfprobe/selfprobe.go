// SPDX-License-Identifier: Apache-2.0

// Package selfprobe is the daemon's probe of itself: a process under its programs
// tries DNS and the proxy as a workload does.
package selfprobe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/capacity"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/probe"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/arrival"
	"github.com/egressd/egressd/policy"
)

const (
	// DefaultInterval is how often run probes itself.
	DefaultInterval = 5 * time.Second
	// Policy is nobody else's: the compiler counts up from 1.
	Policy = ^policy.PolicyID(0)
)

// Options say how the daemon probes itself.
type Options struct {
	// Interval is the time between two rounds; 0: it does not.
	Interval time.Duration
	// Command is the process that tries as a workload does; the families are
	// added to it. It must call probe.Main.
	Command []string
}

// Workloads is what the probe needs of the binding of cgroups to workloads.
type Workloads interface {
	// NumberOf is what the kernel knows a cgroup as; 0: it does not.
	NumberOf(cgroup uint64) uint32
}

// Daemon is what is probed.
type Daemon struct {
	// At is the cgroup that the programs are attached to; "": they are not yet.
	At        func() string
	Sockets   *listen.Set
	Workloads Workloads
	// Bind tells the kernel of cgroups that came.
	Bind func() error
	// Well returns when the forwarding core answers.
	Well func()
	Log  *slog.Logger
}

// Probe is the daemon's side of its probe of itself: the workload that it is, and
// what the listeners make of it. The nil Probe probes nothing.
type Probe struct {
	*probe.Prober
	daemon   Daemon
	interval time.Duration
	command  []string
	// own are the sources of a probe that is not captured.
	own sync.Map
}

// New makes a Probe, or nil where the options say that there is none.
func New(o Options, d Daemon) *Probe {
	if o.Interval <= 0 {
		return nil
	}
	s := &Probe{daemon: d, interval: o.Interval, command: o.Command}
	var families []probe.Family
	for _, l := range d.Sockets.Proxy {
		if addr := addrOf(l.Addr()); addr.IsLoopback() {
			families = append(families, probe.FamilyOf(addr))
		}
	}
	s.Prober = probe.New(probe.Options{
		Interval: o.Interval, Families: families, Log: d.Log,
		Captured:  func(ctx context.Context) ([]probe.Outcome, error) { return s.captured(ctx, families) },
		Listeners: s.targets,
		Queued:    s.queued,
		Spent:     capacity.Spent,
	})
	return s
}

// dir is its cgroup; "": there is no place for it yet.
func (s *Probe) dir() string {
	if at := s.daemon.At(); at != "" {
		return filepath.Join(at, state.ProbeCgroup)
	}
	return ""
}

// Openings are what the probe's policy opens.
func (s *Probe) Openings() (all []policy.Opening) {
	for _, f := range []probe.Family{probe.IPv4, probe.IPv6} {
		at := probe.Destination(f)
		all = append(all, policy.Opening{
			Prefix: netip.PrefixFrom(at.Addr(), at.Addr().BitLen()), Port: at.Port(), Transport: policy.TCP, Verdict: policy.Proxy,
		})
	}
	return all
}

// Bind adds the probe's cgroup to the table of workloads, if there is one.
func (s *Probe) Bind(table map[uint64]loader.WorkloadState) {
	if s == nil {
		return
	}
	if id, err := cgroup.ID(s.dir()); err == nil {
		table[id] = loader.WorkloadState{ID: workload.Probe, Policy: Policy, Mode: policy.Enforce}
	}
}

// bound says whether the kernel knows the probe's cgroup.
func (s *Probe) bound() bool {
	id, err := cgroup.ID(s.dir())
	return err == nil && s.daemon.Workloads.NumberOf(id) == workload.Probe
}

// captured runs a round in the probe's cgroup. The cgroup is there as long as the
// daemon, the process for a moment only, and nothing is decided for it but what
// it is for.
func (s *Probe) captured(ctx context.Context, families []probe.Family) ([]probe.Outcome, error) {
	if len(s.command) == 0 {
		return nil, errors.New("there is no command for it")
	}
	cgroupDir := s.dir()
	if cgroupDir == "" {
		return nil, errors.New("there is nothing yet that is captured")
	}
	if err := os.Mkdir(cgroupDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make its cgroup: %w", err)
	}
	if !s.bound() {
		if err := s.daemon.Bind(); err != nil {
			return nil, err
		}
		if !s.bound() { // else it would be under the policy of the node
			return nil, errors.New("its cgroup is not known to the kernel programs")
		}
	}
	dir, err := os.Open(cgroupDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	args := s.command[1:]
	for _, f := range families {
		args = append(args[:len(args):len(args)], string(f))
	}
	c := exec.CommandContext(ctx, s.command[0], args...)
	c.Env = []string{"GOMAXPROCS=1"}
	c.Dir = "/"
	c.WaitDelay = time.Second
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("run its process: %w %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	var outcomes []probe.Outcome
	if err := json.Unmarshal(out.Bytes(), &outcomes); err != nil {
		return nil, fmt.Errorf("read what its process says: %w", err)
	}
	return outcomes, nil
}

// targets are the listeners themselves.
func (s *Probe) targets() (all []probe.Attempt) {
	announce := func(src netip.AddrPort) func() {
		s.own.Store(src, true)
		return func() { s.own.Delete(src) }
	}
	s.eachListener(func(p probe.Path, at net.Addr, _ syscall.Conn) {
		port := uint16(0)
		switch at := at.(type) {
		case *net.TCPAddr:
			port = uint16(at.Port)
		case *net.UDPAddr:
			port = uint16(at.Port)
		}
		addr := addrOf(at)
		all = append(all, probe.Attempt{Path: p, Family: probe.FamilyOf(addr), Addr: netip.AddrPortFrom(addr, port), Announce: announce})
	})
	return all
}

// eachListener calls f for the listeners on loopback that the probe reaches.
func (s *Probe) eachListener(f func(probe.Path, net.Addr, syscall.Conn)) {
	l := s.daemon.Sockets
	visit := func(p probe.Path, at net.Addr, c any) {
		if raw, ok := c.(syscall.Conn); ok && addrOf(at).IsLoopback() {
			f(p, at, raw)
		}
	}
	proxy, dnsTCP, dnsUDP := l.Now() // another daemon may have failed to take them over
	for i, t := range proxy {
		visit(probe.Proxy, t.Addr(), t)
		visit(probe.DNSTCP, dnsTCP[i].Addr(), dnsTCP[i])
		visit(probe.DNSUDP, dnsUDP[i][0].LocalAddr(), dnsUDP[i][0])
	}
}

// queued is how much waits at a listener; -1: unknown.
func (s *Probe) queued(path probe.Path, family probe.Family) int {
	n := -1
	s.eachListener(func(p probe.Path, at net.Addr, c syscall.Conn) {
		if p != path || probe.FamilyOf(addrOf(at)) != family {
			return
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return
		}
		_ = raw.Control(func(fd uintptr) { n = waiting(int(fd), p) }) // it is closed
	})
	return n
}

// waiting counts bytes of datagrams, or connections: a listener's TCP_INFO says
// those that were not accepted in tcpi_unacked (net/ipv4/tcp.c, tcp_get_info).
func waiting(fd int, p probe.Path) int {
	if p == probe.DNSUDP {
		if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
			return n
		}
		return -1
	}
	if info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO); err == nil {
		return int(info.Unacked)
	}
	return -1
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// Is says whether a flow is the probe's: of its workload, or of a socket of this
// process on loopback.
func (s *Probe) Is(o loader.Origin, known bool, at arrival.Arrival) bool {
	if s == nil {
		return false
	}
	if known {
		return o.Workload == workload.Probe
	}
	_, own := s.own.Load(at.Src)
	return own && at.Local.IsLoopback()
}

// Client is the probe as the DNS proxy sees it.
func (s *Probe) Client(p probe.Path, at netip.Addr) dnsproxy.Client {
	return dnsproxy.Client{Probe: question{s, p, probe.FamilyOf(at)}}
}

// question is one of the probe.
type question struct {
	of     *Probe
	path   probe.Path
	family probe.Family
}

// Answered implements dnsproxy.Probe.
func (q question) Answered() { q.of.Served(q.path, q.family) }

// Greet answers a connection of the probe by the proxy's counts, for which the
// core must be well.
func (s *Probe) Greet(c *net.TCPConn, at netip.Addr) {
	s.daemon.Well()
	s.Served(probe.Proxy, probe.FamilyOf(at))
	_ = c.SetWriteDeadline(time.Now().Add(probe.Timeout)) // it is open
	_, _ = c.Write([]byte(probe.Greeting))                // the probe says what came of it
}

// NotReady says which paths fail.
func (s *Probe) NotReady() error {
	if s == nil {
		return nil
	}
	if err := s.Prober.NotReady(); err != nil {
		return fmt.Errorf("egressd's probe of itself fails: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// Alive says whether the probe goes on and finds no listener stuck.
func (s *Probe) Alive(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return errors.Join(s.Beat(ctx), s.Stuck())
}

// Run probes until ctx ends, and leaves no cgroup behind.
func (s *Probe) Run(ctx context.Context) {
	s.Prober.Run(ctx)
	_ = os.Remove(s.dir()) // unless another daemon uses it
}

// ProbeStatus is what the probe sees.
type ProbeStatus struct {
	Interval string `json:"interval"`
	probe.ProberStatus
}

// Status is what it sees now; nil: there is no probe.
func (s *Probe) Status() *ProbeStatus {
	if s == nil {
		return nil
	}
	return &ProbeStatus{Interval: s.interval.String(), ProberStatus: s.Prober.Status()}
}
