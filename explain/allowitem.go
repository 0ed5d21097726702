// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strconv"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/allowlist"
	"github.com/egressd/egressd/policy/scheme"
)

// AllowItem is what --allow would name to allow a denied flow; "" where nothing that it
// could name would, or where it is not known which of several names was meant. What a
// visitor of a Gateway was denied is none of it: a ServiceEntry opens the way out.
func AllowItem(e *flow.Event) string {
	if !e.Denied() || len(e.Names) > 1 || e.Layer == flow.Ingress {
		return ""
	}
	w := DeniedTarget{Name: e.Name, Transport: e.Transport, Speaks: spoken(*e)}
	if e.Kind != flow.Query {
		w.Port = e.Dst.Port()
		if e.Dst.IsValid() {
			w.Addr = e.Dst.Addr()
		}
	}
	return w.AllowItem(e.Reason)
}

// AllowItem is what --allow would name to allow what was denied for a reason; "" where
// it could not.
func (w DeniedTarget) AllowItem(reason policy.Reason) string {
	if !suggestable(reason) || len(w.Names) > 1 || isTechnical(w.Name) || w.Name == "" && !w.Addr.IsValid() || w.Transport == 0 {
		return ""
	}
	port := ":" + strconv.Itoa(int(w.Port))
	if w.Port == 0 {
		port = ""
	}
	item := w.Name + port
	if w.Name == "" {
		item = netip.AddrPortFrom(w.Addr.Unmap().WithZone(""), w.Port).String()
	}
	switch {
	case w.Transport == policy.UDP && w.Port != 0:
		item = "udp://" + item
	case w.Name != "" && w.Port != 0 && w.Speaks.IsTLS():
		item = "tls://" + item
	case w.Name != "" && w.Port != 0 && w.Speaks.IsHTTP() && !scheme.ProtocolOfPort(w.Port).IsHTTP():
		item = "http://" + item
	}
	if d, err := allowlist.Parse(item); err != nil || d.Host.IsWildcard() {
		return "" // a name that no policy can have, or that would open others
	}
	return item
}
