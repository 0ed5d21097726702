// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"strings"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
)

// forwarded tells the upstream of a gateway who the visitor is, as Istio's gateways
// do (Envoy's source/common/http/conn_manager_utility.cc, mutateRequestHeaders, with
// use_remote_address and no trusted hop): its address is behind those that it
// says it comes from, and what only a proxy can know is not the visitor's to
// say. Requests of workloads go on as they came.
func (x *exchange) forwarded(h *field.List) {
	if x.conn.Info.Layer != flow.Ingress {
		return
	}
	src := x.conn.Info.Src.Addr().Unmap().WithZone("")
	if !src.IsValid() {
		return
	}
	h.Set("X-Forwarded-For", strings.Join(append(h.Values("X-Forwarded-For"), src.String()), ","))
	h.Set("X-Forwarded-Proto", x.req.Scheme)
	h.Del("X-Envoy-External-Address")
	h.Del("X-Envoy-Internal")
	if src.IsPrivate() || src.IsLoopback() || src.IsLinkLocalUnicast() {
		h.Set("X-Envoy-Internal", "true")
		return
	}
	h.Set("X-Envoy-External-Address", src.String())
}
