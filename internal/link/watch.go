// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// again is how often it is looked without being told: netlink loses messages
// when there are too many of them (netlink(7), ENOBUFS).
const again = 5 * time.Second

// Watch calls changed whenever an interface or a route of this network
// namespace may have changed, until ctx is done. The caller's thread must be
// in the namespace when Watch is called.
func Watch(ctx context.Context, changed func()) error {
	links := make(chan netlink.LinkUpdate, 64)
	routes := make(chan netlink.RouteUpdate, 64)
	tick := time.NewTicker(again)
	defer tick.Stop()
	for ctx.Err() == nil {
		done := make(chan struct{})
		if err := netlink.LinkSubscribe(links, done); err != nil {
			close(done)
			return fmt.Errorf("subscribe to interfaces: %w", err)
		}
		if err := netlink.RouteSubscribe(routes, done); err != nil {
			close(done)
			return fmt.Errorf("subscribe to routes: %w", err)
		}
		for open := true; open; {
			// What changed between the last look and the subscription.
			changed()
			select {
			case <-ctx.Done():
				open = false
			case _, open = <-links:
			case _, open = <-routes:
			case <-tick.C:
			}
			for len(links)+len(routes) > 0 && open { // one look for all of them
				select {
				case _, open = <-links:
				case _, open = <-routes:
				}
			}
		}
		close(done)
		// Their senders end when they see done; a closed channel is not
		// subscribed again.
		for range links {
		}
		for range routes {
		}
		links, routes = make(chan netlink.LinkUpdate, 64), make(chan netlink.RouteUpdate, 64)
	}
	return nil
}
