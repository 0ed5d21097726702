// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"

	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/own"
	"github.com/egressd/egressd/agent/shift"
	"github.com/egressd/egressd/policy"
)

// self is what this egressd and a daemon of the node listen on.
func (a *Agent) self() own.Self {
	return own.Self{
		StateDirs: []string{a.opts.StateDir, DefaultStateDir}, Consent: policy.NewConsent(a.opts.AllowEndpoints), Node: a.addresses.Has, Ports: a.sockets.Ports,
		Interfaces: []string{DefaultStatusAddress, DefaultHealthAddress, a.opts.StatusAddress, a.opts.HealthAddress, a.opts.AdminAddress},
	}
}

// addressWatcher follows the node's addresses as they come and go.
func (a *Agent) addressWatcher() *own.AddressWatcher {
	return own.NewAddressWatcher(own.Options{Addresses: &a.addresses, Datapath: a.datapath, Names: a.names, Recheck: a.outgoing.Recheck, Log: a.log})
}

// followDevices makes egressd listen on the node's devices as they are now.
func (a *Agent) followDevices(s *shift.Shift) {
	a.devices.Serve(s.Context, a.sockets, listen.DeviceServices{
		Proxy: func(ctx context.Context, ln *net.TCPListener) error { return a.outgoing.Serve(ctx, ln, a.identify) },
		DNS:   a.dns.Serve, Tell: a.datapath.SetDevices,
	}, s.Accept, s.Answer)
}
