// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/egressd/egressd/internal/handover"
)

// Names of the sockets that outlive a daemon: in the service manager's store,
// and when another daemon takes over. Those of one name have other addresses.
const (
	proxySocket   = "proxy"
	dnsTCPSocket  = "dns-tcp"
	gatewaySocket = "gateway"
)

func dnsUDPSocket(slot int) string { return "dns-udp-" + strconv.Itoa(slot) }

// adopt gives a socket of an earlier daemon the options of today.
func (l *listeners) adopt(network string, at netip.AddrPort, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if at.Addr().Is4() {
		network += "4"
	} else {
		network += "6"
	}
	return l.control(network, "", raw)
}

// replace puts sockets in the place of closed ones of the same ports.
func (l *listeners) replace(with *listeners) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ports.Proxy != with.ports.Proxy || l.ports.DNSTCP != with.ports.DNSTCP || l.ports.DNSUDP != with.ports.DNSUDP {
		with.close()
		return errors.New("the listeners' own ports could not be had again")
	}
	l.proxy, l.dnsTCP, l.dnsUDP, l.ports.Sockets = with.proxy, with.dnsTCP, with.dnsUDP, with.ports.Sockets
	return nil
}

// descriptors duplicates all sockets by which workloads and visitors reach this
// daemon. The caller must close the set.
func (a *Agent) descriptors() (*handover.Set, error) {
	set := &handover.Set{}
	l := a.sockets
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	add := func(name string, c any) {
		if s, ok := c.(syscall.Conn); ok {
			errs = append(errs, set.Add(name, s))
		}
	}
	for _, t := range l.proxy {
		add(proxySocket, t)
	}
	for _, t := range l.dnsTCP {
		add(dnsTCPSocket, t)
	}
	for _, group := range l.dnsUDP {
		for slot, u := range group {
			add(dnsUDPSocket(slot), u)
		}
	}
	a.devices.mu.Lock()
	defer a.devices.mu.Unlock()
	for _, d := range a.devices.at {
		add(proxySocket, d.proxy)
		add(dnsTCPSocket, d.dnsTCP)
		for slot, u := range d.dnsUDP {
			add(dnsUDPSocket(slot), u)
		}
	}
	if a.incoming != nil {
		a.incoming.Listeners(func(c syscall.Conn) { add(gatewaySocket, c) })
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
		a.inherited, err = a.life.manager.Inherited()
	}
	return err
}

// store leaves the sockets with the service manager, for the next start.
func (l life) store(a *Agent) {
	if l.manager == nil {
		return
	}
	set, err := a.descriptors()
	if err != nil {
		a.log.Warn("the service manager does not get the sockets; a restart refuses for a moment", "error", err)
		return
	}
	defer set.Close()
	l.manager.Forget(a.inherited) // what nobody wants any more
	l.manager.Store(set)
}

// forget takes the sockets back from the service manager.
func (l life) forget(a *Agent) {
	if l.manager == nil {
		return
	}
	if set, err := a.descriptors(); err == nil {
		defer set.Close()
		l.manager.Forget(set)
	}
}
