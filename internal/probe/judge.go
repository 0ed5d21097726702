// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"strings"
	"syscall"
)

// Cause is why a path does not work.
type Cause string

// The causes.
const (
	// CauseHook: the kernel programs did not redirect.
	CauseHook Cause = "not-redirected"
	// CauseRefused: connect() fails at once.
	CauseRefused Cause = "refused"
	// CauseDropped: what was sent reaches no listener.
	CauseDropped Cause = "dropped"
	// CauseStuck: the listener has it and makes no progress.
	CauseStuck Cause = "stuck"
	// CauseSlow: the listener makes progress, but not in time.
	CauseSlow Cause = "slow"
	// CauseDescriptors: there is no file descriptor to accept with.
	CauseDescriptors Cause = "descriptors"
	// CauseOverload: egressd answers that it cannot.
	CauseOverload Cause = "overload"
	// CausePorts: there is no source port for a connection to egressd.
	CausePorts Cause = "ports"
	// CauseLoopback: there is no loopback interface to redirect to.
	CauseLoopback Cause = "loopback-down"
	// CauseOther: what nobody thought of.
	CauseOther Cause = "other"
)

// texts say what happened and what to do.
var texts = map[Cause]string{
	CauseHook: "the kernel does not redirect it: programs of egressd were detached, so workloads may be free; restart egressd, which attaches them again",
	CauseRefused: "it is refused before it reaches egressd: its listener is closed, or a firewall rule rejects what goes to it on the lo interface; " +
		"let the firewall accept what comes by lo, and restart egressd if that is not it",
	CauseDropped: "something between workloads and egressd drops it, such as a firewall rule for the lo interface; let the firewall accept what comes by lo",
	CauseStuck:   "egressd has it and does not answer: it is stuck; see its log, and restart it",
	CauseSlow:    "egressd answers too late; see whether it has enough processor time and who floods it",
	CauseDescriptors: "no file descriptors are left; raise the limit (LimitNOFILE) and restart egressd, " +
		"and see in \"egressd status\" who has so many connections",
	CausePorts: "no local port is left for connections to egressd: somebody holds all of net.ipv4.ip_local_port_range; " +
		"see who has so many connections (ss -tn), and widen the range",
	CauseLoopback: "the lo interface is down, by which workloads reach egressd; set it up (ip link set lo up)",
	CauseOverload: "egressd turns it away because it serves as many others as it may; see in \"egressd flows\" who asks so much",
}

// judge says why an outcome is a failure. captured says that it is of a captured
// process; queued how much waits at the listener, negative: nobody knows; served
// that the listener served a probe since the round before began; spent that this
// process can open no file.
func judge(o Outcome, captured bool, queued int, served, spent bool) (Cause, string) {
	c := cause(o, captured, queued, served, spent)
	text := texts[c]
	if text == "" {
		text = o.Error
	}
	return c, text
}

func cause(o Outcome, captured bool, queued int, served, spent bool) Cause {
	timeout := o.Errno == syscall.ETIMEDOUT
	switch {
	case o.Errno == syscall.EMFILE, o.Errno == syscall.ENFILE:
		return CauseDescriptors
	case strings.HasPrefix(o.Error, errLoopback.Error()):
		return CauseLoopback
	case o.Errno == syscall.EADDRNOTAVAIL:
		return CausePorts
	case captured && !o.Redirected:
		return CauseHook
	case o.Stage == StageSocket:
		return CauseOther
	case o.Errno == syscall.ECONNREFUSED, o.Errno == syscall.EHOSTUNREACH, o.Errno == syscall.ENETUNREACH:
		return CauseRefused
	case o.Errno == syscall.EPERM, o.Errno == syscall.EACCES: // a rule for what is sent
		return CauseDropped
	case o.Error == errOverload.Error():
		return CauseOverload
	case !timeout && o.Stage == StageAnswer && (o.Errno == syscall.ECONNRESET || strings.HasSuffix(o.Error, "EOF")):
		return CauseOverload
	case !timeout:
		return CauseOther
	}
	// Nothing happens. A connection is made by the kernel; who reads is egressd.
	reached := queued > 0 || o.Path != DNSUDP && o.Stage == StageAnswer
	switch {
	case served:
		return CauseSlow
	case reached && spent && o.Path != DNSUDP:
		return CauseDescriptors
	case reached:
		return CauseStuck
	}
	return CauseDropped
}
