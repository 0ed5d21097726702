// SPDX-License-Identifier: Apache-2.0

//go:build !race

package forward

import (
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/policy"
)

// rawAddr is an address of 127.0.0.1 as a sockaddr.
func rawAddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// bareSockets are descriptors that are closed in the end.
type bareSockets struct{ open []int }

// socket is a socket that blocks, and takes nothing of Go's memory.
func (b *bareSockets) socket(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.open = append(b.open, fd)
	return fd
}

func (b *bareSockets) close() {
	for _, fd := range b.open {
		unix.Close(fd)
	}
}

// origin listens; answer accepts one connection and answers one request on it, with
// further fields.
func (b *bareSockets) origin(t testing.TB, fields string) (at netip.AddrPort, answer func()) {
	t.Helper()
	fd := b.socket(t)
	if err := unix.Bind(fd, rawAddr(netip.MustParseAddrPort("127.0.0.1:0"))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 64); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	buf, response := make([]byte, 4096), []byte("HTTP/1.1 200 OK\r\nServer: o\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"+fields+"\r\nhello")
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port)), func() {
		c, _, err := unix.Accept(fd)
		if err != nil {
			t.Error(err)
			return
		}
		b.open = append(b.open, c)
		if n, err := unix.Read(c, buf); n == 0 || err != nil {
			t.Error(n, err)
		}
		if _, err := unix.Write(c, response); err != nil {
			t.Error(err)
		}
	}
}

// bare is a core, and an origin and clients that take none of Go's memory. ask has a
// client make a connection and ask once on it; fields are further ones of both.
func bare(t testing.TB, n int, fields string) (ask func()) {
	t.Helper()
	r := newRig(t, HTTP, rests, func(o *Options) { o.Sink = &counter{} })
	sockets := bareSockets{open: make([]int, 0, 2*n+16)}
	t.Cleanup(sockets.close)
	at, answer := sockets.origin(t, fields)
	r.addrs["a.example"] = at
	d := policy.HTTPDecision{Decision: allowed, Upstream: upstreamOf("a.example")}
	r.http = func(*policy.Request) policy.HTTPDecision { return d }
	to := rawAddr(netip.MustParseAddrPort(r.addr()))
	b, request := make([]byte, 4096), []byte("GET /index.html HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nAccept: */*\r\n"+fields+"\r\n")
	return func() {
		fd := sockets.socket(t)
		if err := unix.Connect(fd, to); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, request); err != nil {
			t.Fatal(err)
		}
		answer()
		if n, err := unix.Read(fd, b); n == 0 || err != nil {
			t.Fatal(n, err)
		}
	}
}

// TestConnectionAllocations: what a connection with one request and its own upstream
// connection allocates has no buffer in it.
func TestConnectionAllocations(t *testing.T) {
	const n = 200
	ask := bare(t, n+1, "Connection: close\r\n")
	ask()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		ask()
	}
	runtime.ReadMemStats(&after)
	each := (after.TotalAlloc - before.TotalAlloc) / n
	t.Logf("%d bytes", each)
	if each > 14<<10 {
		t.Errorf("a connection allocates %d bytes", each)
	}
}

// idle makes n keep-alive connections, each of which has had one answer, and returns
// what memory of Go's each takes, in bytes: on the heap and of stacks.
func idle(t testing.TB, n int) (heap, stack int64) {
	t.Helper()
	ask := bare(t, n+1, "")
	ask()
	var before, after runtime.MemStats
	settle := func(m *runtime.MemStats) {
		for range 3 {
			runtime.GC() // the second one forgets pools, each halves stacks
		}
		runtime.ReadMemStats(m)
	}
	settle(&before)
	for range n {
		ask()
	}
	allRest(t)
	settle(&after)
	// Less than before: stacks of what ran earlier in this process have gone.
	return (int64(after.HeapInuse) - int64(before.HeapInuse)) / int64(n), (int64(after.StackInuse) - int64(before.StackInuse)) / int64(n)
}

// TestIdleMemory: an idle connection with an upstream connection of its own takes less
// than 7 KiB, and no stack, of which the smallest has 2 KiB. The goroutines that wait for
// the next connection have one each, in the worst case in 32 KiB that are otherwise free.
func TestIdleMemory(t *testing.T) {
	heap, stack := idle(t, 1000)
	t.Logf("%d bytes of the heap, a stack of %d", heap, stack)
	if heap > 7<<10 || stack > maxWaiting*32<<10/1000+512 {
		t.Errorf("an idle connection takes %d bytes of the heap and a stack of %d", heap, stack)
	}
}
