// SPDX-License-Identifier: Apache-2.0

package dial

import (
	"errors"
	"net"
	"net/netip"
)

// Errors of dialling, which name the reason. For all of them nothing was sent.
var (
	// ErrConnect: no address of the upstream could be connected to.
	ErrConnect = errors.New("upstream could not be reached")
	// ErrResolve: the upstream's name did not resolve.
	ErrResolve = errors.New("upstream could not be resolved")
	// ErrAddress: the upstream's addresses are ones that no answer may name.
	ErrAddress = errors.New("upstream address is not allowed")
	// ErrEndpoint: the endpoint is the node's own, or one that its operator has
	// not allowed.
	ErrEndpoint = errors.New("endpoint is not allowed")
	// ErrUnsupported: the upstream is to be reached in a way that is not there.
	ErrUnsupported = errors.New("not supported")
)

// Refused says whether an error means that egressd would not dial, rather than
// that it could not.
func Refused(err error) bool {
	return errors.Is(err, ErrAddress) || errors.Is(err, ErrEndpoint) || errors.Is(err, ErrUnsupported)
}

// LastTried is the address of the last attempt that an error of Any names; the zero
// AddrPort: it names none.
func LastTried(err error) (at netip.AddrPort) {
	switch e := err.(type) { //nolint:errorlint // the tree is walked here: the last leaf counts
	case *net.OpError:
		if a, ok := e.Addr.(*net.TCPAddr); ok && e.Op == "dial" {
			return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
		}
	case interface{ Unwrap() error }:
		return LastTried(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			if a := LastTried(one); a.IsValid() {
				at = a
			}
		}
	}
	return at
}
