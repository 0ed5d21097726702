// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// talker is a client process that goes on when it is told to.
type talker struct {
	r   *rig
	cmd *world.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// talk starts a client that says a line for each one that it is sent.
func (r *rig) talk(ns *world.Netns, cg *world.Cgroup, op string, args ...string) *talker {
	r.t.Helper()
	self, err := os.Executable()
	must(r.t, err)
	// Not bound to the test's context, which ends before its cleanups.
	c := &talker{r: r, cmd: ns.Command(context.WithoutCancel(r.t.Context()), cg, self, args...)}
	c.cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT="+op)
	c.cmd.Stderr = os.Stderr
	c.in, err = c.cmd.StdinPipe()
	must(r.t, err)
	out, err := c.cmd.StdoutPipe()
	must(r.t, err)
	c.out = bufio.NewReader(out)
	must(r.t, c.cmd.Start())
	r.t.Cleanup(c.end)
	return c
}

// end lets the client end and waits for it.
func (c *talker) end() {
	if c.cmd == nil {
		return
	}
	cmd := c.cmd
	c.cmd = nil
	_ = c.in.Close()
	_, _ = io.Copy(io.Discard, c.out)
	if _, bad := errors.AsType[*exec.ExitError](cmd.Wait()); bad {
		c.r.t.Errorf("%v failed", cmd.Args)
	}
}

// kill ends a client that waits for something else than its next line.
func (c *talker) kill() {
	cmd := c.cmd
	c.cmd = nil
	must(c.r.t, cmd.Process.Kill())
	_ = c.in.Close()
	_, _ = io.Copy(io.Discard, c.out)
	_ = cmd.Wait()
}

func (c *talker) next() result {
	c.r.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.r.t.Fatalf("the client ended: %q, %v", line, err)
	}
	var res result
	must(c.r.t, json.Unmarshal([]byte(line), &res))
	return res
}

func (c *talker) again() result {
	c.r.t.Helper()
	return c.ask("")
}

// ask is again with a word about what to do.
func (c *talker) ask(word string) result {
	c.r.t.Helper()
	if _, err := io.WriteString(c.in, word+"\n"); err != nil {
		c.r.t.Fatal(err)
	}
	return c.next()
}

// say is the other end of next.
func say(r result) {
	line, _ := json.Marshal(r)
	fmt.Println(string(line))
}

// waitLine waits to be told to go on, and how; false: to end.
func waitLine(in *bufio.Reader) (string, bool) {
	line, err := in.ReadString('\n')
	return strings.TrimSpace(line), err == nil
}

// hoard opens n UDP sockets, sends on each and keeps them; then it asks on the
// first one again whenever it is told to.
func hoard(addr netip.AddrPort, args []string) result {
	n, _ := strconv.Atoi(args[0])
	in := bufio.NewReader(os.Stdin)
	room := uint64(n + 64)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: room, Max: room}); err != nil {
		return result{Errno: "setrlimit " + errnoName(err)}
	}
	first, refused, errno := -1, 0, ""
	for range n {
		fd, sa, err := socket(addr, unix.SOCK_DGRAM, false)
		if err == nil {
			if err = unix.Connect(fd, sa); err == nil {
				_, err = unix.Write(fd, fmt.Appendf(nil, "%04d hello", os.Getpid()%10000))
			}
		}
		if err != nil {
			refused++
			errno = errnoName(err)
		}
		if first < 0 {
			first = fd
		}
	}
	say(result{Data: strconv.Itoa(refused), Errno: errno})
	buf := make([]byte, 64)
	if _, _, err := receive(first, buf); err != nil {
		return result{Errno: errnoName(err)}
	}
	for _, more := waitLine(in); more; _, more = waitLine(in) {
		_, err := unix.Write(first, []byte("again"))
		got := 0
		if err == nil {
			got, _, err = receive(first, buf)
		}
		if err != nil {
			say(result{Errno: errnoName(err)})
			continue
		}
		say(result{Data: string(buf[:got])})
	}
	return result{}
}

// from sends from a source that args name, whose address need not be one of
// the client's own, and may be another's as well; with "-" from any. A connected socket says its own address.
func from(typ int, addr netip.AddrPort, args []string) result {
	in := bufio.NewReader(os.Stdin)
	fd, sa, err := socket(addr, typ, false)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return result{Errno: "setsockopt " + errnoName(err)}
	}
	if args[0] != "-" {
		src := netip.MustParseAddrPort(args[0])
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT // IP_FREEBIND does not let TCP connect
		var bind unix.Sockaddr = &unix.SockaddrInet4{Port: int(src.Port()), Addr: as4(src.Addr())}
		if src.Addr().Is6() {
			level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
			bind = &unix.SockaddrInet6{Port: int(src.Port()), Addr: src.Addr().As16()}
		}
		if err = unix.SetsockoptInt(fd, level, option, 1); err == nil {
			err = unix.Bind(fd, bind)
		}
		if err != nil {
			return result{Errno: "bind " + errnoName(err)}
		}
	}
	if err := unix.Connect(fd, sa); err != nil {
		return result{Errno: errnoName(err)}
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	say(result{From: sockaddr(local)})
	buf := make([]byte, 64)
	for word, more := waitLine(in); more; word, more = waitLine(in) {
		if _, err := unix.Write(fd, fmt.Appendf(nil, "%04d hello", os.Getpid()%10000)); err != nil {
			say(result{Errno: errnoName(err)})
			continue
		}
		if word == "send" {
			say(result{Data: "sent"})
			continue
		}
		n, _, err := receive(fd, buf)
		if err != nil {
			say(result{Errno: errnoName(err)})
			continue
		}
		say(result{Data: string(buf[:n])})
	}
	return result{}
}

func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}
