// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/internal/world"
)

const (
	metricsPort = 15020
	// steadyAfter is when what follows a start (saving, analyzing) is over.
	steadyAfter = 15 * time.Second
	// changeEvery is between two changes, which come alone.
	changeEvery = 200 * time.Millisecond
	// startWait bounds how long a start may take, on a machine that others use.
	startWait = 3 * time.Minute
)

// kubeletScript makes the cgroup $1 the root of a cgroup namespace, as a node's is, with
// an empty directory of pods' logs, and goes on in the cgroup $3 below it.
const kubeletScript = `set -e
root=$1 mnt=$2 unit=$3; shift 3
echo 0 >"$root/cgroup.procs"
exec unshare --cgroup sh -c 'set -e
mnt=$1 unit=$2; shift 2
umount -l "$mnt"
mount -t cgroup2 cgroup2 "$mnt"
mkdir -p "$mnt/$unit"
echo 0 >"$mnt/$unit/cgroup.procs"
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p /var/log/pods
exec "$@"' sh "$mnt" "$unit" "$@"`

// oneNode is a node with egressd.
type oneNode struct {
	*cluster
	w      *world.World
	d      *world.Daemon
	client *world.Cgroup // a container's
	relay  net.Listener
}

// measureDaemon measures egressd on one node: its start, its memory, and changes.
func measureDaemon(ctx context.Context, o options) (err error) {
	c, err := startCluster(ctx, o.size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	n := &oneNode{cluster: c}
	defer func() { err = errors.Join(err, n.close()) }()
	programs := strings.Split(o.egressd, ",")
	if err := n.prepare(ctx, programs[0]); err != nil {
		return err
	}
	for i := range max(o.starts, 1) {
		if i > 0 {
			if err := n.reset(ctx, programs[i%len(programs)]); err != nil {
				return err
			}
		}
		if err := n.start(ctx, programs[i%len(programs)]); err != nil {
			return err
		}
	}
	if err := n.change(ctx, o.changes); err != nil {
		return err
	}
	fmt.Printf("after %d changes: %s\n", o.changes, n.memory())
	return nil
}

// prepare lays out the node, with the cgroups of its pods.
func (n *oneNode) prepare(ctx context.Context, egressd string) (err error) {
	if egressd, err = filepath.Abs(egressd); err != nil {
		return err
	}
	if n.w, err = world.New(world.Options{NoTap: true}); err != nil {
		return err
	}
	if n.d, err = n.w.NewDaemon(egressd, nil, "--kubernetes", "--kubeconfig", n.Kubeconfig(kubetest.Admin), "--node-name", ownNode, "--cluster-cidr", "auto,"+kubetest.ServiceCIDR); err != nil {
		return err
	}
	root, err := world.CgroupRoot()
	if err != nil {
		return err
	}
	n.d.Capture = []string{} // what --kubernetes captures
	n.d.Prefix = []string{"sh", "-c", kubeletScript, "sh", n.d.Root.Path(), root, "system.slice/egressd.service"}
	u, err := url.Parse(n.URL())
	if err != nil {
		return err
	}
	if n.relay, err = n.w.Node.Listen(netip.MustParseAddrPort(u.Host)); err != nil {
		return err
	}
	go relay(n.relay, u.Host)
	pods, err := n.cluster.client.CoreV1().Pods("").List(ctx, meta.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", ownNode).String()})
	if err != nil {
		return err
	}
	for i, p := range pods.Items {
		at := filepath.Join(n.d.Root.Path(), podcgroup.Path(string(p.UID), string(p.Status.QOSClass)), fmt.Sprintf("%064x", i+1))
		if i > 0 {
			err = os.MkdirAll(at, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
			n.client, err = world.MakeCgroup(at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// relay leads to the API server, which is on loopback of another network namespace.
func relay(ln net.Listener, to string) {
	for {
		down, err := ln.Accept()
		if err != nil {
			return // closed
		}
		up, err := net.Dial("tcp", to)
		if err != nil {
			_ = down.Close() // the client tries again
			continue
		}
		for _, c := range [][2]net.Conn{{up, down}, {down, up}} {
			go func() {
				_, _ = io.Copy(c[0], c[1]) // either end may end it
				_, _ = c[0].Close(), c[1].Close()
			}()
		}
	}
}

func (n *oneNode) close() error {
	var errs []error
	if n.relay != nil {
		errs = append(errs, n.relay.Close())
	}
	if n.client != nil {
		errs = append(errs, n.client.Close())
	}
	if n.d != nil {
		errs = append(errs, n.d.Stop())
	}
	if n.w != nil {
		errs = append(errs, n.w.Close())
	}
	return errors.Join(errs...)
}

// reset ends the daemon and opens the kernel, so that the next start, of program, is the
// first again.
func (n *oneNode) reset(ctx context.Context, program string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	if err := n.d.Terminate(); err != nil {
		return err
	}
	if out, err := n.d.Command(ctx, "unload", "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir()).CombinedOutput(); err != nil {
		return fmt.Errorf("egressd unload: %w: %s", err, out)
	}
	n.d.Install(program)
	return errors.Join(os.RemoveAll(n.d.StateDir()), os.Mkdir(n.d.StateDir(), 0o755))
}

var stepsLine = regexp.MustCompile(`msg="policy applied".* (read=\S+ decode=\S+ compile=\S+ apply=\S+)`)

// start measures a start of program, and the memory at its end and later.
func (n *oneNode) start(ctx context.Context, program string) error {
	begin := time.Now()
	if err := n.d.Launch(ctx); err != nil {
		return err
	}
	for deadline := begin.Add(startWait); ; {
		err := n.d.WaitReady(ctx)
		if err == nil {
			break
		}
		if n.d.PID() == 0 || time.Now().After(deadline) {
			return err
		}
	}
	took := time.Since(begin)
	fmt.Printf("%s, from the start to ready, with the policy in force: %v; processor time %v\n", program, took.Round(time.Millisecond), processorTime(n.d.PID()))
	if all := stepsLine.FindAllStringSubmatch(n.d.Log(), -1); len(all) > 0 {
		fmt.Println("  the newest policy:", all[len(all)-1][1])
	}
	fmt.Println("  at the start:", n.memory())
	if err := wait(ctx, steadyAfter); err != nil {
		return err
	}
	fmt.Printf("  %v later: processor time %v, %s\n", steadyAfter, processorTime(n.d.PID()), n.memory())
	return nil
}

// processorTime is what a process has used so far, to 10 ms (proc_pid_stat(5)).
func processorTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	var user, system int64
	if len(f) > 12 {
		_, _ = fmt.Sscan(f[11]+" "+f[12], &user, &system) // numbers, says the kernel
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

var heapLines = regexp.MustCompile(`(?m)^go_memstats_(heap_alloc|heap_inuse|sys)_bytes (\S+)`)

// memory is what the daemon has.
func (n *oneNode) memory() string {
	pid := n.d.PID()
	text := fmt.Sprintf("resident %.0f MiB, at most so far %.0f MiB", residentOf(pid, "VmRSS"), residentOf(pid, "VmHWM"))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.w.Node.Dial(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), metricsPort))
	}}}
	res, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", metricsPort))
	if err != nil {
		return text + ": " + err.Error()
	}
	defer func() { _ = res.Body.Close() }() // only read from
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return text + ": " + err.Error()
	}
	for _, m := range heapLines.FindAllSubmatch(body, -1) {
		var v float64
		if _, err := fmt.Sscan(string(m[2]), &v); err == nil {
			text += fmt.Sprintf(", %s %.0f MiB", m[1], v/mib)
		}
	}
	return text
}

// change measures changes of ServiceEntries with addresses: from the event that another
// client gets of it until a container may connect to the new address.
func (n *oneNode) change(ctx context.Context, count int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dialler := n.w.Client(ctx, n.client, self, dialVerb)
	in, err := dialler.StdinPipe()
	if err != nil {
		return err
	}
	out, err := dialler.StdoutPipe()
	if err != nil {
		return err
	}
	if err := dialler.Start(); err != nil {
		return err
	}
	defer func() { _ = dialler.Wait() }() // its input ends, or it is killed
	defer func() { _ = in.Close() }()
	answers := bufio.NewReader(out)
	seen, err := n.watchEntries(ctx)
	if err != nil {
		return err
	}
	var fromEvent, fromRequest []time.Duration
	for i := range count {
		entry := i*10 + 9
		to := address(1<<16 + i)
		if err := wait(ctx, changeEvery); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(in, to); err != nil {
			return err
		}
		var nanos int64
		if _, err := fmt.Fscan(answers, &nanos); err != nil || nanos != 0 {
			return fmt.Errorf("%s is open before it is allowed: %w", to, err)
		}
		begin := time.Now()
		patch := fmt.Sprintf(`{"spec":{"addresses":[%q]}}`, to)
		if _, err := n.entries.Namespace(n.namespace(entry)).Patch(ctx, entryName(entry), types.MergePatchType, []byte(patch), meta.PatchOptions{}); err != nil {
			return err
		}
		if _, err := fmt.Fscan(answers, &nanos); err != nil {
			return fmt.Errorf("%s does not open: %w", to, err)
		}
		open := time.Unix(0, nanos)
		event := seen.at(entryName(entry))
		fromEvent = append(fromEvent, open.Sub(event))
		fromRequest = append(fromRequest, open.Sub(begin))
	}
	report := func(what string, of []time.Duration) {
		fmt.Printf("%s: p50 %v, p99 %v, at most %v\n", what, percentile(of, 0.5), percentile(of, 0.99), slices.Max(of))
	}
	report("a ServiceEntry changes: from the watch event until the kernel has it", fromEvent)
	report("  from the request", fromRequest)
	n.slowest(fromEvent)
	return nil
}

// slowest prints the steps of the changes that took the longest. Each change is a policy
// of its own, unless the daemon took two at once.
func (n *oneNode) slowest(took []time.Duration) {
	all := stepsLine.FindAllStringSubmatch(n.d.Log(), -1)
	if len(all) < len(took) {
		return
	}
	all = all[len(all)-len(took):]
	order := make([]int, len(took))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(took[j], took[i]) })
	for _, i := range order[:min(5, len(order))] {
		fmt.Printf("  change %d took %v: %s\n", i+1, took[i].Round(time.Millisecond), all[i][1])
	}
	middle := order[len(order)/2]
	fmt.Printf("  and one in the middle %v: %s\n", took[middle].Round(time.Millisecond), all[middle][1])
}

// events are when changes of objects were seen.
type events struct {
	mu   sync.Mutex
	came *sync.Cond
	when map[string]time.Time
}

// watchEntries watches ServiceEntries, beside the daemon.
func (n *oneNode) watchEntries(ctx context.Context) (*events, error) {
	w, err := n.entries.Watch(ctx, meta.ListOptions{})
	if err != nil {
		return nil, err
	}
	e := &events{when: map[string]time.Time{}}
	e.came = sync.NewCond(&e.mu)
	go func() {
		for event := range w.ResultChan() {
			o, ok := event.Object.(meta.Object)
			if !ok || event.Type != "MODIFIED" {
				continue
			}
			e.mu.Lock()
			e.when[o.GetName()] = time.Now()
			e.mu.Unlock()
			e.came.Broadcast()
		}
	}()
	return e, nil
}

// at is when an object's change was seen, which may still come.
func (e *events) at(name string) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.when[name].IsZero() {
		e.came.Wait()
	}
	return e.when[name]
}
