// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// join joins a multicast group on the uplink.
func join(group netip.Addr) result {
	domain := unix.AF_INET
	if group.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM, 0)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	defer unix.Close(fd)
	if group.Is4() {
		err = unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: 1})
	} else {
		err = unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: 1})
	}
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	return result{Data: "joined"}
}

// TestGroups: who is captured joins the groups that all software joins and those
// that a rule names.
func TestGroups(t *testing.T) {
	r := newRig(t)
	id, err := r.cg.ID()
	must(t, err)
	r.allow("239.1.1.1", 5000, policy.UDP, policy.Direct)
	r.allow("ff05::1234", 5000, policy.UDP, policy.Direct)
	for group, want := range map[string]string{
		"224.0.0.251": "", "224.0.0.252": "", "239.255.255.250": "", "ff02::fb": "", "ff02::1:3": "", "ff05::c": "",
		"239.1.1.1": "", "ff05::1234": "",
		"239.1.1.2": "EPERM", "224.0.0.9": "EPERM", "ff05::1235": "EPERM", "ff02::fc": "EPERM", "ff0e::fb": "EPERM", "ff02:0:1::fb": "EPERM",
	} {
		if got := r.run(true, "join", hostport(group, 0)); got.Errno != want {
			t.Errorf("%s: %+v, want %q", group, got, want)
		}
		if got := r.run(false, "join", hostport(group, 0)); got.Data != "joined" {
			t.Errorf("%s, not captured: %+v", group, got)
		}
	}
	for _, w := range []loader.WorkloadState{{ID: 1, Mode: policy.Audit}, {ID: 1, Mode: policy.Off}, {ID: 2, Exempt: true}} {
		must(t, r.dp.SetWorkload(id, w))
		if got := r.run(true, "join", "239.1.1.2:0"); got.Data != "joined" {
			t.Errorf("%+v: %+v", w, got)
		}
	}
}
