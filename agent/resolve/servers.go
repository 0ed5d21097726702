// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/egressd/egressd/dnsproxy"
)

const (
	// resolverAge is how long it is believed which sockets a server has, and
	// which of them a process has.
	resolverAge = 5 * time.Second
	// maxAskers bounds the processes that are remembered, maxLooked is how
	// many descriptors of one are looked at: servers open theirs first.
	maxAskers = 1024
	maxLooked = 4096
)

// Servers finds out whether a process is the DNS server at an address of
// this node: it has the socket that listens there. Names of programs or units
// say nothing about that.
type Servers struct {
	own func(netip.Addr) bool // an address of the node
	// proc is where proc(5) is; tests have another one.
	proc string
	now  func() time.Time

	mu      sync.Mutex
	sockets map[netip.AddrPort]listening
	askers  map[asker]verdictUntil
}

// listening are the sockets at an address, by inode.
type listening struct {
	until  time.Time
	inodes map[uint64]bool
}

// asker is a process, by its number and its start, and a server.
type asker struct {
	pid    int
	start  string
	server netip.AddrPort
}

type verdictUntil struct {
	until  time.Time
	serves bool
}

// NewServers knows nothing yet; own says whether an address is the node's.
func NewServers(own func(netip.Addr) bool) *Servers {
	return &Servers{
		own: own, proc: "/proc", now: time.Now,
		sockets: map[netip.AddrPort]listening{}, askers: map[asker]verdictUntil{},
	}
}

// Serves says whether the client is the server at an address. What can't be
// known is no.
func (r *Servers) Serves(c dnsproxy.Client, server netip.AddrPort) bool {
	addr := server.Addr().Unmap()
	if c.Process.PID <= 0 || !addr.IsLoopback() && !r.own(addr) {
		return false
	}
	stat, err := r.stat(c.Process.PID)
	if err != nil {
		return false
	}
	key := asker{c.Process.PID, stat.start, netip.AddrPortFrom(addr, server.Port())}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if v, ok := r.askers[key]; ok && now.Before(v.until) {
		return v.serves
	}
	if len(r.askers) >= maxAskers {
		clear(r.askers)
	}
	sockets := r.at(key.server, now)
	// A server may answer by children, as dnsmasq does over TCP.
	v := verdictUntil{now.Add(resolverAge), r.has(key.pid, sockets) || stat.parent > 1 && r.has(stat.parent, sockets)}
	r.askers[key] = v
	return v.serves
}

// procStat is what is needed of /proc/PID/stat.
type procStat struct {
	parent int
	start  string
}

func (r *Servers) stat(pid int) (procStat, error) {
	b, err := os.ReadFile(filepath.Join(r.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	// The command's name is in parentheses and may have some itself.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return procStat{}, errors.New("stat is too short")
	}
	parent, err := strconv.Atoi(f[1])
	return procStat{parent, f[19]}, err
}

// has says whether a process has one of the sockets.
func (r *Servers) has(pid int, sockets map[uint64]bool) bool {
	if len(sockets) == 0 {
		return false
	}
	dir, err := os.Open(filepath.Join(r.proc, strconv.Itoa(pid), "fd"))
	if err != nil {
		return false
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxLooked) // what was read counts
	for _, name := range names {
		link, err := os.Readlink(filepath.Join(dir.Name(), name))
		if err != nil {
			continue
		}
		text, ok := strings.CutPrefix(link, "socket:[")
		if !ok {
			continue
		}
		if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64); err == nil && sockets[inode] {
			return true
		}
	}
	return false
}

// at returns the sockets that get what is sent to an address: those bound to
// it, else those bound to all addresses. The caller holds the lock.
func (r *Servers) at(server netip.AddrPort, now time.Time) map[uint64]bool {
	if l, ok := r.sockets[server]; ok && now.Before(l.until) {
		return l.inodes
	}
	exact, wild := map[uint64]bool{}, map[uint64]bool{}
	for _, table := range []string{"udp", "udp6"} {
		f, err := os.Open(filepath.Join(r.proc, "self/net", table))
		if err != nil {
			continue // without IPv6
		}
		_ = eachSocket(f, func(local netip.AddrPort, inode uint64) { // what was read counts
			switch {
			case local.Port() != server.Port():
			case local.Addr() == server.Addr():
				exact[inode] = true
			case local.Addr().IsUnspecified() && (local.Addr().Is6() || server.Addr().Is4()):
				wild[inode] = true
			}
		})
		f.Close()
	}
	if len(exact) == 0 {
		exact = wild
	}
	r.sockets[server] = listening{now.Add(resolverAge), exact}
	return exact
}

// eachSocket reads a table of /proc/net: f gets the address that each socket
// is bound to (IPv4 is unmapped) and its inode.
func eachSocket(r io.Reader, f func(local netip.AddrPort, inode uint64)) error {
	lines := bufio.NewScanner(r)
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		local, err := procAddress(fields[1])
		if err != nil {
			return err
		}
		inode, err := strconv.ParseUint(fields[9], 10, 64)
		if err != nil {
			return err
		}
		f(local, inode)
	}
	return lines.Err()
}

// procAddress reads an address and port of /proc/net: words of 32 bits in the
// byte order of the machine, and the port as a number.
func procAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	words, err := hex.DecodeString(host)
	if err != nil || len(words) != 4 && len(words) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address of /proc/net", s)
	}
	for i := 0; i < len(words); i += 4 {
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	addr, _ := netip.AddrFromSlice(words)
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), err
}
