// SPDX-License-Identifier: Apache-2.0

// Package kernel says what the kernel that egressd runs on can do, and what can be
// done about what it refuses.
package kernel

import (
	"errors"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/sockdiag"
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

// ender probes whether the sockets of a transport can be ended. Where they
// can't, what is refused in the middle of a flow hangs instead of being reset.
func ender(t policy.Transport) func() error {
	return func() error {
		err := sockdiag.CanDestroy(t)
		if errors.Is(err, errors.ErrUnsupported) {
			return ebpf.ErrNotSupported
		}
		return err
	}
}

// HasTCX probes for TCX links by attaching to an interface that is not there.
var HasTCX = sync.OnceValue(func() bool {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return false
	}
	defer prog.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1<<31 - 1, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
	}
	return err == nil || errors.Is(err, unix.ENODEV)
})
