// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/proxyheader"
	"github.com/egressd/egressd/policy"
)

// enter reads the PROXY header that the connection must begin with, if it must.
// False: the connection has ended. Until then nobody asks where it is from.
func (t *conn) enter() bool {
	if !t.Info.Proxied {
		t.setPhase(phaseOpening, "")
		return true
	}
	err := t.NC.SetReadDeadline(t.Opened.Add(t.core.o.PeekTimeout))
	src := t.Info.Src
	if err == nil {
		src, err = proxyheader.Read(t.NC)
	}
	if err == nil {
		err = t.NC.SetReadDeadline(time.Time{})
	}
	switch reason, _ := t.KillReason(); {
	case err == nil:
	case reason == "" && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		t.leave(policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed})
		return false
	default:
		t.Refuse(session.Denied(peekReason(err, policy.ReasonProxyProtocol), nil), "tcp", "", err.Error())
		return false
	}
	t.phaseMu.Lock()
	defer t.phaseMu.Unlock()
	if src.IsValid() {
		t.Info.Src = src
	}
	t.phase = phaseOpening
	return true
}
