// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/flow"
)

// forwarded tells the upstream of a gateway who the visitor is, as Istio's gateways
// do (Envoy's source/common/http/conn_manager_utility.cc, mutateRequestHeaders, with
// use_remote_address and no trusted hop): its address is behind those that it
// says it comes from, and what only a proxy can know is not the visitor's to
// say. Requests of workloads go on as they came.
func (x *exchange) forwarded(h http.Header) {
	if x.conn.info.Layer != flow.Ingress {
		return
	}
	src := x.conn.info.Src.Addr().Unmap().WithZone("")
	if !src.IsValid() {
		return
	}
	h["X-Forwarded-For"] = []string{strings.Join(append(slices.Clone(h["X-Forwarded-For"]), src.String()), ",")}
	h["X-Forwarded-Proto"] = []string{x.req.Scheme}
	delete(h, "X-Envoy-External-Address")
	delete(h, "X-Envoy-Internal")
	if src.IsPrivate() || src.IsLoopback() || src.IsLinkLocalUnicast() {
		h["X-Envoy-Internal"] = []string{"true"}
		return
	}
	h["X-Envoy-External-Address"] = []string{src.String()}
}
