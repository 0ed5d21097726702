// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/probe"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

const (
	// DefaultProbeInterval is how often run probes itself.
	DefaultProbeInterval = 5 * time.Second
	// probeCgroup is made below the cgroup that the programs are attached to.
	probeCgroup = "egressd-probe"
	// probePolicy is nobody else's: the compiler counts up from 1.
	probePolicy = ^policy.PolicyID(0)
)

// ProbeOptions say how the daemon probes itself.
type ProbeOptions struct {
	// Interval is the time between two rounds; 0: it does not.
	Interval time.Duration
	// Command is the process that tries as a workload does; the families are
	// added to it. It must call probe.Main.
	Command []string
}

// selfProbe is the agent's side of the probe: the workload that it is, and what
// the listeners make of it. The nil selfProbe probes nothing.
type selfProbe struct {
	*probe.Prober
	agent   *Agent
	command []string
	dir     string // its cgroup
	// own are the sources of a probe that is not captured.
	own sync.Map
}

// newSelfProbe needs the listeners.
func newSelfProbe(a *Agent) *selfProbe {
	if a.opts.Probe.Interval <= 0 || !a.opts.Interfaces {
		return nil
	}
	s := &selfProbe{agent: a, command: a.opts.Probe.Command, dir: filepath.Join(a.capture.at, probeCgroup)}
	var families []probe.Family
	for _, l := range a.sockets.proxy {
		if addr := addrOf(l.Addr()); addr.IsLoopback() {
			families = append(families, probe.FamilyOf(addr))
		}
	}
	s.Prober = probe.New(probe.Options{
		Interval: a.opts.Probe.Interval, Families: families, Log: a.log,
		Captured:  func(ctx context.Context) ([]probe.Outcome, error) { return s.captured(ctx, families) },
		Listeners: s.targets,
		Queued:    s.queued,
		Spent:     spent,
	})
	return s
}

// openings are what the probe's policy opens.
func (s *selfProbe) openings() (all []policy.Opening) {
	for _, f := range []probe.Family{probe.IPv4, probe.IPv6} {
		at := probe.Destination(f)
		all = append(all, policy.Opening{
			Prefix: netip.PrefixFrom(at.Addr(), at.Addr().BitLen()), Port: at.Port(), Transport: policy.TCP, Verdict: policy.Proxy,
		})
	}
	return all
}

// bind adds the probe's cgroup to the table of workloads, if there is one.
func (s *selfProbe) bind(table map[uint64]loader.Workload) {
	if s == nil {
		return
	}
	if id, err := cgroup.ID(s.dir); err == nil {
		table[id] = loader.Workload{ID: probeID, Policy: probePolicy, Mode: policy.Enforce}
	}
}

// bound says whether the kernel knows the probe's cgroup.
func (s *selfProbe) bound() bool {
	id, err := cgroup.ID(s.dir)
	w := s.agent.workloads
	w.mu.Lock()
	defer w.mu.Unlock()
	return err == nil && w.cgroups[id].ID == probeID
}

// captured runs a round in the probe's cgroup. The cgroup is there as long as the
// daemon, the process for a moment only, and nothing is decided for it but what
// it is for.
func (s *selfProbe) captured(ctx context.Context, families []probe.Family) ([]probe.Outcome, error) {
	if len(s.command) == 0 {
		return nil, errors.New("there is no command for it")
	}
	if err := os.Mkdir(s.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make its cgroup: %w", err)
	}
	if !s.bound() {
		s.agent.binding.Lock()
		err := s.agent.bind(nil)
		s.agent.binding.Unlock()
		if err != nil {
			return nil, err
		}
		if !s.bound() { // else it would be under the policy of the node
			return nil, errors.New("its cgroup is not known to the kernel programs")
		}
	}
	dir, err := os.Open(s.dir)
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
func (s *selfProbe) targets() (all []probe.Target) {
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
		all = append(all, probe.Target{Path: p, Family: probe.FamilyOf(addr), Addr: netip.AddrPortFrom(addr, port), Announce: announce})
	})
	return all
}

// eachListener calls f for the listeners on loopback that the probe reaches.
func (s *selfProbe) eachListener(f func(probe.Path, net.Addr, syscall.Conn)) {
	l := s.agent.sockets
	visit := func(p probe.Path, at net.Addr, c any) {
		if raw, ok := c.(syscall.Conn); ok && addrOf(at).IsLoopback() {
			f(p, at, raw)
		}
	}
	l.mu.Lock() // another daemon may have failed to take them over
	proxy, dnsTCP, dnsUDP := l.proxy, l.dnsTCP, l.dnsUDP
	l.mu.Unlock()
	for i, t := range proxy {
		visit(probe.Proxy, t.Addr(), t)
		visit(probe.DNSTCP, dnsTCP[i].Addr(), dnsTCP[i])
		visit(probe.DNSUDP, dnsUDP[i][0].LocalAddr(), dnsUDP[i][0])
	}
}

// queued is how much waits at a listener; -1: unknown.
func (s *selfProbe) queued(path probe.Path, family probe.Family) int {
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

// spent says that this process can open no more files.
func spent() bool {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return noDescriptors(err)
}

func noDescriptors(err error) bool { return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) }

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// is says whether a flow is the probe's: of its workload, or of a socket of this
// process on loopback.
func (s *selfProbe) is(o loader.Origin, known bool, at loader.Arrival) bool {
	if s == nil {
		return false
	}
	if known {
		return o.Workload == probeID
	}
	_, own := s.own.Load(at.Src)
	return own && at.Local.IsLoopback()
}

// client is the probe as the DNS proxy sees it.
func (s *selfProbe) client(p probe.Path, at netip.Addr) dnsproxy.Client {
	return dnsproxy.Client{Probe: question{s, p, probe.FamilyOf(at)}}
}

// question is one of the probe.
type question struct {
	of     *selfProbe
	path   probe.Path
	family probe.Family
}

// Answered implements dnsproxy.Probe.
func (q question) Answered() { q.of.Served(q.path, q.family) }

// greet answers a connection of the probe by the proxy's counts, for which the
// core must be well.
func (s *selfProbe) greet(c *net.TCPConn, at netip.Addr) {
	_ = s.agent.outgoing.Stats()
	s.Served(probe.Proxy, probe.FamilyOf(at))
	_ = c.SetWriteDeadline(time.Now().Add(probe.Timeout)) // it is open
	_, _ = c.Write([]byte(probe.Greeting))                // the probe says what came of it
}

// notReady says which paths fail.
func (s *selfProbe) notReady() error {
	if s == nil {
		return nil
	}
	if err := s.NotReady(); err != nil {
		return fmt.Errorf("egressd's probe of itself fails: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// alive says whether the probe goes on and finds no listener stuck.
func (s *selfProbe) alive(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return errors.Join(s.Beat(ctx), s.Stuck())
}

// run probes until ctx ends, and leaves no cgroup behind.
func (s *selfProbe) run(ctx context.Context) {
	s.Run(ctx)
	_ = os.Remove(s.dir) // unless another daemon uses it
}

// RemoveProbeCgroup removes what a daemon that was killed left of its probe, by the
// id of the cgroup that its programs were attached to. A round may be under way;
// it is ended.
func RemoveProbeCgroup(attached uint64) error {
	dir := cgroup.PathOf(attached)
	if dir == "" {
		return nil
	}
	dir = filepath.Join(dir, probeCgroup)
	err := cgroup.Remove(dir)
	if _, gone := os.Stat(dir); errors.Is(gone, fs.ErrNotExist) {
		return nil // the daemon that ends removes it as well
	}
	return err
}

// ProbeStatus is the part of the Status about the probe.
type ProbeStatus struct {
	Interval string `json:"interval"`
	probe.Status
}

func (s *selfProbe) status() *ProbeStatus {
	if s == nil {
		return nil
	}
	return &ProbeStatus{Interval: s.agent.opts.Probe.Interval.String(), Status: s.Status()}
}

var (
	probeDesc = prometheus.NewDesc("egressd_probe_success",
		"1 when the last probe of egressd by itself was answered, by path (dns-udp, dns-tcp, proxy) and family.", []string{"path", "family"}, nil)
	probeSuccessDesc = prometheus.NewDesc("egressd_probe_last_success_timestamp_seconds",
		"When a probe was answered last, in seconds since 1970; 0: never.", []string{"path", "family"}, nil)
	probeDurationDesc = prometheus.NewDesc("egressd_probe_duration_seconds",
		"How long the last probe took.", []string{"path", "family"}, nil)
	probeCapturedDesc = prometheus.NewDesc("egressd_probe_captured",
		"1 when the probe is a process under the kernel programs; 0: it knows of the listeners only.", nil, nil)
)

// collect tells the metrics.
func (s *ProbeStatus) collect(gauge func(d *prometheus.Desc, n float64, labels ...string)) {
	if s == nil {
		return
	}
	gauge(probeCapturedDesc, truth(s.Captured))
	for _, p := range s.Paths {
		labels := []string{string(p.Path), string(p.Family)}
		last := 0.0
		if !p.LastSuccess.IsZero() {
			last = float64(p.LastSuccess.UnixMilli()) / 1000
		}
		gauge(probeDesc, truth(p.OK), labels...)
		gauge(probeSuccessDesc, last, labels...)
		gauge(probeDurationDesc, p.Seconds, labels...)
	}
}
