// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// frame tries to send an Ethernet frame past every hook that looks at sockets.
const frame = `
import socket
try:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    s.send(b"\xff" * 12 + b"\x08\x00" + b"\x45" + b"\x00" * 45)
    print("sent")
except OSError as e:
    print(e)`

// TestExecFrames: a command under exec cannot get around the hooks by writing
// frames or making tunnels, not even as root.
func TestExecFrames(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "python3")
	b := newBench(t, hosts("api", world.API))
	if e := b.exec(t, "python3", "-c", frame); !strings.Contains(e.stdout, "Operation not permitted") {
		t.Errorf("a frame: %+v", e)
	}
	tunnel := shell("ip link add name egd0 type ipip local 198.51.100.10 remote 203.0.113.66")
	if e := b.exec(t, tunnel...); e.code == 0 {
		t.Errorf("a tunnel: %+v", e)
	}
	// The twin: without exec root may send frames.
	if e := b.run(t, nil, "python3", "-c", frame); !strings.Contains(e.stdout, "sent") {
		t.Errorf("without exec: %+v", e)
	}
}
