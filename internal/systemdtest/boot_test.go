// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// With egressd-boot.service, as docs/KUBERNETES.md installs it. A stub of the kubelet
// starts two pods: one knocks where no policy allows it to, the other one is of a
// system namespace, and knocks at the API's host.

const (
	bootUnit = "egressd-boot.service"
	// podUID and systemUID tell the pods apart.
	podUID    = "11111111-2222-3333-4444-555555555555"
	systemUID = "66666666-7777-8888-9999-000000000000"
)

const kubeletUnit = `[Unit]
After=network.target
[Service]
ExecStart=/usr/local/bin/kubelet
[Install]
WantedBy=multi-user.target
`

// kubelet makes the pods' cgroups as the driver systemd does.
const kubelet = `#!/bin/bash
pod() { # UID OUTPUT ADDRESS...
	local uid=${1//-/_} out=$2 at
	shift 2
	at=/sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod$uid.slice/cri-containerd-$(printf %064d "${#pids[@]}").scope
	mkdir -p "$at"
	bash -c 'echo $$ >"$0/cgroup.procs" && exec /usr/local/bin/tool knock "$@"' "$at" "$@" >"$out" 2>&1 &
	pids+=($!)
}
pids=()
mkdir -p /var/log/pods/kube-system_dns_SYSTEM
pod POD DIR/run/pod DOORS
pod SYSTEM DIR/run/system API
trap 'kill "${pids[@]}"' TERM
wait
wait
`

// bootMachine is a machine whose kubelet starts the pods.
func bootMachine(t *testing.T) *Machine {
	t.Helper()
	m := machine(t)
	api := m.World.API.Addrs()[0].String() + ":80"
	script := strings.NewReplacer("DIR", m.Dir, "DOORS", strings.Join(doors, " "), "API", api, "POD", podUID, "SYSTEM", systemUID).Replace(kubelet)
	must(t, os.WriteFile(filepath.Join(m.Dir, "bin/kubelet"), []byte(script), 0o755),
		m.Unit("kubelet.service", kubeletUnit), m.Install(bootUnit))
	return m
}

// held fails the test if the pod got somewhere, or did not try. It ends the pods.
func (m *Machine) held(t *testing.T) {
	t.Helper()
	m.systemctl(t, "stop", "kubelet.service")
	must(t, m.inFile("run/pod", ", connected 0\n"))
	if m.inFile("run/pod", "tried 0,") == nil {
		t.Error("the pod did not try")
	}
	if got := m.escaped(); got != 0 {
		t.Errorf("%d packets of a pod left the machine", got)
	}
}

// TestBoot: pods are held from the boot on, the system's are not; also while the unit is
// restarted, and while another daemon takes over. The unit ends then, as a success, and
// does not disturb its successor when somebody starts it again.
func TestBoot(t *testing.T) {
	m := bootMachine(t)
	must(t, m.Unit("pod.service", `[Service]
Type=exec
ExecStart=/usr/local/bin/egressd run --pods --takeover --allow-empty-policy --system-namespaces kube-system,egressd-system
StandardError=append:`+m.Dir+`/pod.log
`))
	must(t, m.Boot(bootUnit, "kubelet.service"))
	must(t, m.Is(soon, bootUnit, "ActiveState", "active"), m.Is(soon, "kubelet.service", "ActiveState", "active"))
	ready, err := m.Show(bootUnit, "ActiveEnterTimestampMonotonic")
	must(t, err)
	started, err := m.Show("kubelet.service", "ExecMainStartTimestampMonotonic")
	must(t, err)
	if len(ready) > len(started) || len(ready) == len(started) && ready > started {
		t.Errorf("the kubelet started at %s, egressd was ready at %s", started, ready)
	}
	m.grows(t, m.World.API.Conns)

	before, err := m.Main(bootUnit)
	must(t, err)
	m.systemctl(t, "restart", bootUnit)
	if after, err := m.Main(bootUnit); err != nil || after == before || after == 0 {
		t.Errorf("after a restart its process is %d, before it was %d: %v", after, before, err)
	}
	m.grows(t, m.World.API.Conns)

	m.systemctl(t, "start", "pod.service")
	must(t, m.Is(soon, bootUnit, "ActiveState", "inactive"), m.Is(soon, bootUnit, "Result", "success"))
	m.grows(t, m.World.API.Conns)

	successor, err := m.Main("pod.service")
	must(t, err)
	if _, err := m.Systemctl("restart", bootUnit); err == nil {
		t.Error("it starts beside its successor")
	}
	must(t, m.Is(soon, bootUnit, "ActiveState", "failed"))
	if now, err := m.Main("pod.service"); err != nil || now != successor {
		t.Errorf("the successor was process %d, and is %d: %v", successor, now, err)
	}
	m.grows(t, m.World.API.Conns)
	m.held(t)
}

// TestBootWithout is the twin: without the unit the pod gets where it wants.
func TestBootWithout(t *testing.T) {
	m := bootMachine(t)
	must(t, m.Boot("kubelet.service"))
	m.grows(t, m.World.Stranger.Conns)
	m.grows(t, m.World.API.Conns)
}

// TestBootFails: a start that fails, here without a DNS server, leaves the kubelet its
// start, and denies everything to pods, those of the system as well, until one of the
// next succeeds.
func TestBootFails(t *testing.T) {
	m := bootMachine(t)
	must(t, m.Write("resolv.conf", "# nothing yet\n"), m.Boot(bootUnit, "kubelet.service"))
	must(t, m.Is(soon, "kubelet.service", "ActiveState", "active"))
	must(t, m.await(soon, func() error { return m.inFile(bootUnit+".log", "no DNS server") }))
	must(t, m.Is(soon, bootUnit, "SubState", "auto-restart"))
	// It is tried again, and again.
	must(t, m.await(soon, func() error {
		tried, err := m.Show(bootUnit, "NRestarts")
		if err == nil && (tried == "0" || tried == "1") {
			err = os.ErrNotExist
		}
		return err
	}))
	if got := m.World.API.Conns(); got != 0 {
		t.Errorf("a pod of the system made %d connections", got)
	}
	must(t, m.Write("resolv.conf", "nameserver "+world.ResolverV4+"\n"), m.Is(soon, bootUnit, "ActiveState", "active"))
	m.grows(t, m.World.API.Conns)
	m.held(t)
}
