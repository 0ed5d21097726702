// SPDX-License-Identifier: Apache-2.0

// Package portholder finds which process holds a port of the node.
package portholder

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/quote"
)

// Holder is a socket on a port, and who has it.
type Holder struct {
	Addr    netip.AddrPort
	UID     int
	PID     int // 0: not found, it may be in another pid namespace
	Command string
}

func (h Holder) String() string {
	if h.PID == 0 {
		return fmt.Sprintf("a process of uid %d that is not seen here (%s)", h.UID, h.Addr)
	}
	return fmt.Sprintf("process %d (%s) of uid %d (%s)", h.PID, quote.Word(h.Command), h.UID, h.Addr)
}

// Find returns who has a socket on one of the addresses, or on all addresses,
// with the port; network is tcp or udp. Sockets of tcp must listen.
func Find(network string, port uint16) (Holder, bool) {
	for _, table := range []string{network, network + "6"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			continue
		}
		h, inode, ok := parse(f, network, port)
		_ = f.Close() // only read from
		if ok {
			h.PID = owner(inode)
			h.Command = command(h.PID)
			return h, true
		}
	}
	return Holder{}, false
}

// Columns of /proc/net/tcp and the like (proc_pid_net(5)).
const (
	columnLocal = 1
	columnState = 3
	columnUID   = 7
	columnInode = 9
	listening   = "0A" // TCP_LISTEN
)

// parse finds the line of a port.
func parse(r io.Reader, network string, port uint16) (Holder, uint64, bool) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) <= columnInode || network == "tcp" && f[columnState] != listening {
			continue
		}
		addr, err := address(f[columnLocal])
		if err != nil || addr.Port() != port {
			continue
		}
		uid, _ := strconv.Atoi(f[columnUID])
		inode, _ := strconv.ParseUint(f[columnInode], 10, 64)
		return Holder{Addr: addr, UID: uid}, inode, true
	}
	return Holder{}, 0, false
}

// address reads "0100007F:1F90": words of 32 bits in the machine's order, all
// of which is little-endian here.
func address(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	addr, ok := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address and a port", s)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// owner finds a process that has the socket open; 0: none.
func owner(inode uint64) int {
	want := fmt.Sprintf("socket:[%d]", inode)
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == want {
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			return pid
		}
	}
	return 0
}

func command(pid int) string {
	if pid == 0 {
		return ""
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // gone meanwhile
	return string(bytes.TrimSuffix(b, []byte("\n")))
}

// Name says in words who has a port.
func Name(network string, port uint16) string {
	if h, ok := Find(network, port); ok {
		return h.String()
	}
	return "unknown"
}
