// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"syscall"

	"github.com/egressd/egressd/internal/handover"
)

// gatewaySocket is the name of the gateway's sockets among those that outlive a
// daemon.
const gatewaySocket = "gateway"

// descriptors duplicates all sockets by which workloads and visitors reach this
// daemon. The caller must close the set.
func (a *Agent) descriptors() (*handover.SocketSet, error) {
	set := &handover.SocketSet{}
	var errs []error
	for _, sockets := range []map[string][]syscall.Conn{a.sockets.Sockets(), a.devices.Sockets()} {
		for name, all := range sockets {
			for _, c := range all {
				errs = append(errs, set.Add(name, c))
			}
		}
	}
	if a.incoming != nil {
		a.incoming.Listeners(func(c syscall.Conn) { errs = append(errs, set.Add(gatewaySocket, c)) })
	}
	if err := errors.Join(errs...); err != nil {
		set.Close()
		return nil, err
	}
	return set, nil
}

// fromManager looks for sockets that a service manager kept, where no daemon hands
// over its own.
func (a *Agent) fromManager() (err error) {
	if a.inherited == nil {
		a.inherited, err = a.manager.Inherited()
	}
	return err
}

// store leaves the sockets with the service manager, for the next start.
func (a *Agent) store() {
	if a.manager == nil {
		return
	}
	set, err := a.descriptors()
	if err != nil {
		a.log.Warn("the sockets could not be given to the service manager; DNS and proxied connections are refused for a moment when egressd restarts", "error", err)
		return
	}
	defer set.Close()
	a.manager.Forget(a.inherited) // what nobody wants any more
	a.manager.Store(set)
}

// forget takes the sockets back from the service manager.
func (a *Agent) forget() {
	if a.manager == nil {
		return
	}
	if set, err := a.descriptors(); err == nil {
		defer set.Close()
		a.manager.Forget(set)
	}
}
