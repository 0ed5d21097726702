// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// The bridge that all machines are at, and its address, which leads to Services.
const (
	bridge   = "cluster0"
	bridgeIP = "10.77.0.1"
)

// network makes the bridge in the network namespace of the test.
func network(t *testing.T) {
	t.Helper()
	for _, line := range []string{
		"link set lo up", "link add " + bridge + " type bridge", "link set " + bridge + " up",
		"addr add " + bridgeIP + "/16 dev " + bridge,
	} {
		run(t, "ip", strings.Fields(line)...)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// machine is a process in a network namespace of its own, with an address at the bridge.
type machine struct {
	ip  string
	log *journal
	cmd *exec.Cmd
	// ending says that the process is to end, done is closed when it has.
	ending atomic.Bool
	done   chan struct{}
}

var (
	machinesMu sync.Mutex
	machines   int
)

// start starts a program as a machine; it ends with the test, or by end.
func start(t *testing.T, name string, env []string, program string, args ...string) *machine {
	t.Helper()
	machinesMu.Lock()
	machines++
	n := machines
	machinesMu.Unlock()
	log, err := newJournal(name)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{ip: fmt.Sprintf("10.77.%d.%d", 1+n/200, 1+n%200), log: log, done: make(chan struct{})}
	m.cmd = exec.Command("unshare", append([]string{"--net", "--", "sh", "-c", `read line && exec "$0" "$@"`, program}, args...)...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.Env = append(os.Environ(), env...)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.done)
		if err := m.cmd.Wait(); !m.ending.Load() {
			t.Errorf("%s has ended: %v\n%s", name, err, m.log.last())
		}
	}()
	pid := strconv.Itoa(m.cmd.Process.Pid)
	waitNamespace(t, pid)
	veth := "v" + strconv.Itoa(n)
	run(t, "ip", "link", "add", veth, "master", bridge, "up", "type", "veth", "peer", "name", "eth0", "netns", pid)
	for _, line := range []string{"link set lo up", "link set eth0 up", "addr add " + m.ip + "/16 dev eth0", "route add default via " + bridgeIP} {
		run(t, "nsenter", append([]string{"-t", pid, "--net", "ip"}, strings.Fields(line)...)...)
	}
	if _, err := io.WriteString(begin, "\n"); err != nil {
		t.Fatal(err)
	}
	return m
}

// waitNamespace waits until a process is in another network namespace.
func waitNamespace(t *testing.T, pid string) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "a network namespace", func() bool {
		its, err := os.Readlink("/proc/" + pid + "/ns/net")
		return err == nil && its != own
	})
}

// end ends the machine; egressd has no time to drain.
func (m *machine) end() {
	m.ending.Store(true)
	_ = m.cmd.Process.Kill() // it may have ended
	<-m.done
	m.log.close()
}

// forward leads connections to an address to one of what backends says.
func forward(t *testing.T, listen string, backend func() string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		t.Error(err)
		return nil
	}
	go func() {
		for {
			down, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer down.Close()
				up, err := net.Dial("tcp", backend())
				if err != nil {
					return
				}
				defer up.Close()
				both(down.(*net.TCPConn), up.(*net.TCPConn))
			}()
		}
	}()
	return ln
}

func both(a, b *net.TCPConn) {
	var running sync.WaitGroup
	for _, c := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		running.Go(func() {
			_, _ = io.Copy(c[0], c[1])
			_ = c[0].CloseWrite()
		})
	}
	running.Wait()
}
