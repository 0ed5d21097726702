// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/internal/link"
)

// watchAgain is how long a daemon that cannot be told waits between two looks.
const watchAgain = 5 * time.Second

// readAddresses reads the node's own addresses, which no answer may name,
// before anything is learned, and tells the kernel, for which they are the node.
func (a *Agent) readAddresses() error {
	own, err := link.Own()
	if err != nil {
		return fmt.Errorf("what the node's own addresses are is not known, so no DNS answer could be trusted: %w", err)
	}
	a.addresses.Set(own)
	return a.datapath.SetOwn(own)
}

// watchAddresses follows the node's addresses as they come and go. serve and
// answer: see followDevices.
func (a *Agent) watchAddresses(ctx context.Context, serve, answer func(func() error)) error {
	look := func() {
		a.lookAtAddresses()
		a.followDevices(ctx, serve, answer)
	}
	for ctx.Err() == nil {
		if err := link.WatchOwn(ctx, look); err != nil {
			a.log.Error("the node's addresses cannot be watched; egressd reads them every few seconds instead", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
			look()
		}
	}
	return nil
}

// lookAtAddresses reads the addresses anew. What was learned before the node
// had it as an address of its own is closed, and connections are decided
// again.
func (a *Agent) lookAtAddresses() {
	own, err := link.Own()
	if err != nil {
		a.log.Warn("the node's addresses could not be listed; egressd goes on with those that it knows", "error", err)
		return
	}
	more := a.addresses.Set(own)
	if err := a.datapath.SetOwn(own); err != nil {
		a.log.Error("the kernel could not be told of the node's addresses; connections of the node's processes to new ones may be refused", "error", err)
	}
	if !more {
		return
	}
	closed, err := a.names.Recheck()
	if err != nil {
		a.log.Error("a learned address that belongs to the node now could not be closed; workloads may still reach it; egressd tries again", "error", err)
	}
	if closed == 0 {
		return
	}
	a.log.Warn("learned addresses belong to the node now; workloads may not reach them any more", "count", closed)
	if err := a.datapath.RaiseEpoch(); err != nil {
		a.log.Error("open connections to an address that belongs to the node now could not be checked again; they continue", "error", err)
	}
	a.outgoing.Recheck()
}

// followDevices makes egressd listen on the node's devices as they are now. run
// starts a function that is waited for at the end, and answer one that may go on
// longer.
func (a *Agent) followDevices(ctx context.Context, run, answer func(func() error)) {
	devices, err := link.Devices()
	if err != nil {
		a.log.Warn("the network devices could not be listed; egressd goes on listening on those that it knows, and sockets bound to new ones are refused", "error", err)
		return
	}
	listening, closeOld := a.devices.Follow(a.sockets, devices, func(dl *listen.DeviceListener) {
		ctx, cancel := context.WithCancel(ctx)
		dl.Stop = cancel
		run(func() error {
			if err := a.outgoing.Serve(ctx, dl.Proxy, a.identify); err != nil {
				a.log.Error("a proxy listener on a network device failed; proxied connections of sockets bound to the device are reset", "address", dl.Proxy.Addr(), "error", err)
			}
			return nil
		})
		answer(func() error {
			if err := a.dns.Serve(ctx, dl.DNSUDP, []net.Listener{dl.DNSTCP}); err != nil {
				a.log.Error("a DNS listener on a network device failed; sockets bound to the device get no DNS answers", "address", dl.DNSTCP.Addr(), "error", err)
			}
			return nil
		})
	})
	if err := a.datapath.SetDevices(listening); err != nil {
		a.log.Error("the kernel could not be told where egressd listens for sockets that are bound to a device; their proxied traffic and DNS are refused", "error", err)
	}
	closeOld()
}
