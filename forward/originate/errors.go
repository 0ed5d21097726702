// SPDX-License-Identifier: Apache-2.0

package originate

import (
	"context"
	"errors"
	"net"

	"github.com/egressd/egressd/policy"
)

// TransportError is why a connection could not be made what it was to be.
type TransportError struct {
	Why  policy.Reason
	Text string
	Err  error
}

func (e *TransportError) Error() string {
	switch {
	case e.Err == nil:
		return e.Text
	case e.Text == "":
		return e.Err.Error()
	}
	return e.Text + ": " + e.Err.Error()
}

func (e *TransportError) Unwrap() error { return e.Err }

// failed is an error of a connection on which something of the kind was under way.
func failed(r policy.Reason, err error) *TransportError {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &TransportError{policy.ReasonUpstream, "it did not answer in time", err}
	}
	return &TransportError{r, "", err}
}

// ReasonOf is the reason of an error of this package, or of one of a connection that
// it made; "": it is of neither.
func ReasonOf(err error) policy.Reason {
	if e := (*TransportError)(nil); errors.As(err, &e) {
		return e.Why
	}
	if Rejected(err) {
		return policy.ReasonTLSRejected
	}
	return ""
}

// Rejected says whether the peer ended a connection by an alert of TLS. It does so for
// a client certificate that it misses or does not trust, in TLS 1.3 after the
// handshake is over for the client.
func Rejected(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
