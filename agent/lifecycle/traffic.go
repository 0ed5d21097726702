// SPDX-License-Identifier: Apache-2.0

// Package lifecycle is what a daemon tells people and its service manager of its
// start, of being ready, of reloads and of its end, and what that means for traffic.
package lifecycle

import "github.com/egressd/egressd/loader/predecessor"

// What the states of the daemon mean for traffic, for its log and for the
// service manager.
const (
	trafficOpen = "all traffic is open"
	trafficShut = "everything is denied since a start failed (--on-failure lock)"
	trafficHeld = "the policy of the last run stays in force; what needs the proxy or DNS is refused"
	// TrafficOn is what a daemon that serves means for traffic.
	TrafficOn = "the policy is in force"
)

// AtWork says whether programs are at work whose pins are in a directory.
func AtWork(pins string) bool {
	p, err := predecessor.Read(pins)
	return err == nil && p.AtWork()
}

// WithoutDaemon is what traffic can do while no daemon runs that has its pins in a
// directory.
func WithoutDaemon(pins string) string {
	p, err := predecessor.Read(pins)
	switch {
	case err != nil || !p.AtWork():
		return trafficOpen
	case p.Locked():
		return trafficShut
	}
	return trafficHeld
}
