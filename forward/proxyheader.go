// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/egressd/egressd/internal/proxyheader"
	"github.com/egressd/egressd/policy"
)

// enter reads the PROXY header that the connection must begin with, if it must.
// False: the connection has ended. Until then nobody asks where it is from.
func (t *conn) enter() bool {
	if !t.info.Proxied {
		t.setPhase(phaseOpening, "")
		return true
	}
	err := t.nc.SetReadDeadline(t.opened.Add(t.core.o.PeekTimeout))
	src := t.info.Src
	if err == nil {
		src, err = proxyheader.Read(t.nc)
	}
	if err == nil {
		err = t.nc.SetReadDeadline(time.Time{})
	}
	switch reason, _ := t.killReason(); {
	case err == nil:
	case reason == "" && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		t.leave(policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed})
		return false
	default:
		t.refuse(denied(peekReason(err, policy.ReasonProxyProtocol), nil), "tcp", "", err.Error())
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if src.IsValid() {
		t.info.Src = src
	}
	t.phase = phaseOpening
	return true
}
