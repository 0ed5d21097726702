// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"

	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/own"
	"github.com/egressd/egressd/policy"
)

// self is what this egressd and a daemon of the node listen on.
func (a *Agent) self() own.Self {
	return own.Self{
		StateDirs: []string{a.opts.StateDir, DefaultStateDir}, Consent: policy.NewConsent(a.opts.AllowEndpoints), Node: a.addresses.Has, Ports: a.sockets.Ports,
		Interfaces: []string{DefaultStatusAddress, DefaultHealthAddress, a.opts.StatusAddress, a.opts.HealthAddress, a.opts.AdminAddress},
	}
}

// watchAddresses follows the node's addresses as they come and go. serve and
// answer: see followDevices.
func (a *Agent) watchAddresses(ctx context.Context, serve, answer func(func() error)) error {
	w := own.NewAddressWatcher(own.Options{Addresses: &a.addresses, Datapath: a.datapath, Names: a.names, Recheck: a.outgoing.Recheck, Log: a.log})
	w.Run(ctx, func() { a.followDevices(ctx, serve, answer) })
	return nil
}

// followDevices makes egressd listen on the node's devices as they are now.
func (a *Agent) followDevices(ctx context.Context, run, answer func(func() error)) {
	a.devices.Serve(ctx, a.sockets, listen.DeviceServices{
		Proxy: func(ctx context.Context, ln *net.TCPListener) error { return a.outgoing.Serve(ctx, ln, a.identify) },
		DNS:   a.dns.Serve, Tell: a.datapath.SetDevices,
	}, run, answer)
}
