// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"strings"

	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/policy"
)

// ClosedReason says how an upstream ended a request that it had: by a reset of
// the HTTP/2 stream, or with the connection. net/http's types are its own.
func ClosedReason(err error) policy.Reason {
	if originate.Rejected(err) {
		return policy.ReasonTLSRejected
	}
	if strings.Contains(err.Error(), "stream error") || strings.Contains(err.Error(), "RST_STREAM") {
		return policy.ReasonUpstreamReset
	}
	return policy.ReasonUpstreamClosed
}
