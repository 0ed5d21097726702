// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/policy"
)

// Features probes the kernel for what egressd uses, once: each feature maps
// to "yes", "no" or "unknown: WHY".
var Features = sync.OnceValue(func() map[string]string {
	out := map[string]string{}
	for name, probe := range map[string]func() error{
		"sock_addr: bpf_set_retval":       helper(ebpf.CGroupSockAddr, asm.FnSetRetval),
		"sock_addr: bpf_get_netns_cookie": helper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie),
		"sock_addr: bpf_sk_storage_get":   helper(ebpf.CGroupSockAddr, asm.FnSkStorageGet),
		"cgroup_skb: bpf_sk_storage_get":  helper(ebpf.CGroupSKB, asm.FnSkStorageGet),
		"cgroup_sock: bpf_sk_storage_get": helper(ebpf.CGroupSock, asm.FnSkStorageGet),
		"sock_ops: bpf_sk_storage_get":    helper(ebpf.SockOps, asm.FnSkStorageGet),
		"ring buffer":                     func() error { return features.HaveMapType(ebpf.RingBuf) },
		"longest prefix match":            func() error { return features.HaveMapType(ebpf.LPMTrie) },
		"sock_diag: end TCP connections":  ender(policy.TCP),
		"sock_diag: end UDP sockets":      ender(policy.UDP),
	} {
		switch err := probe(); {
		case err == nil:
			out[name] = "yes"
		case errors.Is(err, ebpf.ErrNotSupported):
			out[name] = "no"
		default:
			out[name] = "unknown: " + err.Error()
		}
	}
	return out
})

func helper(t ebpf.ProgramType, f asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(t, f) }
}

// ender probes whether Destroy can end the sockets of a transport. Where it
// can't (no CONFIG_INET_DIAG_DESTROY; tcp_diag or udp_diag are modules that
// can't be loaded), what is refused in the middle of a flow hangs instead of
// being reset. Destroy can't tell: a missing module looks like a socket that is
// gone, so the sockets are listed first.
func ender(t policy.Transport) func() error {
	return func() error {
		for _, lo := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
			family := uint8(unix.AF_INET)
			if lo.Is6() {
				family = unix.AF_INET6
			}
			nowhere := netip.AddrPortFrom(lo, 0)
			err := diag(t, family, func(OpenSocket, bool) {})
			if err == nil {
				err = Destroy(t, nowhere, nowhere, 0)
			}
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
				return ebpf.ErrNotSupported
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}
