// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is what the daemon holds, in MiB.
type memory struct {
	RSS float64 `json:"rssMiB"`
	// Heap is what the Go heap has in use, garbage included.
	Heap float64 `json:"heapMiB"`
	// Kernel is the memory of all maps; Maps has that of each.
	Kernel float64            `json:"kernelMiB"`
	Maps   map[string]float64 `json:"mapsMiB"`
}

const (
	mib         = 1 << 20
	metricsPort = 15020
)

// memory asks the kernel and the daemon.
func (b *bench) memory(ctx context.Context) (*memory, error) {
	m := &memory{Maps: map[string]float64{}}
	pid, err := b.daemonPID(ctx)
	if err != nil {
		return nil, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	kib, err := figure(status, `(?m)^VmRSS:\s+(\d+) kB`)
	if err != nil {
		return nil, err
	}
	m.RSS = kib / 1024
	metrics, err := b.metrics(ctx)
	if err != nil {
		return nil, err
	}
	heap, err := figure(metrics, `(?m)^go_memstats_heap_inuse_bytes (\S+)`)
	if err != nil {
		return nil, err
	}
	m.Heap = heap / mib
	pins, err := filepath.Glob(filepath.Join(b.daemon.PinDir(), "node", "egd_*"))
	if err != nil {
		return nil, err
	}
	for _, pin := range pins {
		size, err := mapMemory(pin)
		if err != nil {
			continue // a link or a program
		}
		m.Maps[filepath.Base(pin)] = size
		m.Kernel += size
	}
	if len(m.Maps) == 0 {
		return nil, fmt.Errorf("no map is pinned below %s", b.daemon.PinDir())
	}
	return m, nil
}

// mapMemory is what the kernel says about a pinned map's memory, in MiB: of a
// table in an array, with the table.
func mapMemory(pin string) (float64, error) {
	path, err := unix.ByteSliceFromString(pin)
	if err != nil {
		return 0, err
	}
	// The fields of union bpf_attr for BPF_OBJ_GET (linux/bpf.h).
	attr := struct {
		path  uint64
		fd    uint32
		flags uint32
	}{path: uint64(uintptr(unsafe.Pointer(&path[0])))}
	fd, err := bpf(unix.BPF_OBJ_GET, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(path)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	size, err := figure(info, `(?m)^memlock:\s+(\d+)`)
	if err != nil {
		return 0, err
	}
	if kind, err := figure(info, `(?m)^map_type:\s+(\d+)`); err != nil || kind != unix.BPF_MAP_TYPE_ARRAY_OF_MAPS {
		return size / mib, err
	}
	inner, err := tableMemory(fd)
	return (size + inner) / mib, err
}

// tableMemory is the memory of the one map in an array of maps, in bytes.
func tableMemory(array int) (float64, error) {
	var key, id uint32
	at := struct {
		fd, _             uint32
		key, value, flags uint64
	}{fd: uint32(array), key: uint64(uintptr(unsafe.Pointer(&key))), value: uint64(uintptr(unsafe.Pointer(&id)))}
	_, err := bpf(unix.BPF_MAP_LOOKUP_ELEM, unsafe.Pointer(&at), unsafe.Sizeof(at))
	runtime.KeepAlive(&key)
	runtime.KeepAlive(&id)
	if err != nil {
		return 0, err
	}
	by := struct{ id, next, flags uint32 }{id: id}
	fd, err := bpf(unix.BPF_MAP_GET_FD_BY_ID, unsafe.Pointer(&by), unsafe.Sizeof(by))
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	return figure(info, `(?m)^memlock:\s+(\d+)`)
}

// bpf is bpf(2).
func bpf(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// figure finds a number in text.
func figure(text []byte, expr string) (float64, error) {
	m := regexp.MustCompile(expr).FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no %s in %q", expr, text[:min(len(text), 200)])
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

func (b *bench) daemonPID(ctx context.Context) (int, error) {
	out, err := b.daemon.Command(ctx, "status", "-o", "json", "--state-dir", b.daemon.StateDir()).Output()
	if err != nil {
		return 0, fmt.Errorf("egressd status: %w: %s", err, bytes.TrimSpace(out))
	}
	var st struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(out, &st); err != nil || st.PID == 0 {
		return 0, fmt.Errorf("egressd status: no pid: %w", err)
	}
	return st.PID, nil
}

func (b *bench) metrics(ctx context.Context) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return b.w.Node.Dial(ctx, "tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), metricsPort))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
