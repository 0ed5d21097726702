// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
)

// services goes through the services that are about the destination.
func (w *why) services() {
	for _, s := range w.p.index.cfg.Services {
		if h, ok := w.matching(s); ok {
			w.service(s, h)
		} else if w.namesAddress(s) {
			w.address(s)
		}
	}
}

// matching returns the most specific host of a service that stands for one of
// the names.
func (w *why) matching(s *Service) (hostname.Pattern, bool) {
	var best hostname.Pattern
	for _, h := range s.Hosts {
		if slices.ContainsFunc(w.names, h.Matches) && (best == "" || hostname.Compare(h, best) < 0) {
			best = h
		}
	}
	return best, best != ""
}

// visible says whether the workload sees a service, and if not, why.
func (w *why) visible(s *Service, h hostname.Pattern) (shown []hostname.Pattern, reason string) {
	sc := w.p.class
	mesh := &w.p.index.cfg.Mesh
	if !visible(s.Export, sc.identity.Namespace, inNamespace(mesh.DefaultServiceExport, s.Ref.Namespace)) {
		return nil, notVisible(sc.identity.Namespace)
	}
	for _, name := range append([]string{string(h)}, w.names...) {
		if k := w.p.index.owner(sc.home, hostname.Pattern(name), s); k != nil {
			return nil, ownedBy(hostname.Pattern(name), s, k)
		}
	}
	if sc.sidecar.Sidecar == nil || len(sc.sidecar.Egress) == 0 {
		return []hostname.Pattern{h}, ""
	}
	shown = sc.sidecar.shows(s.Ref.Namespace, h, w.f.Dst.Port())
	shown = slices.DeleteFunc(shown, func(p hostname.Pattern) bool { return !slices.ContainsFunc(w.names, p.Matches) })
	if len(shown) == 0 {
		return nil, fmt.Sprintf("hidden by Sidecar %s/%s", sc.sidecar.Ref.Namespace, sc.sidecar.Ref.Name)
	}
	return shown, ""
}

// notVisible says that a namespace does not see an object, and what to do.
func notVisible(namespace string) string {
	return fmt.Sprintf("not visible to namespace %s (exportTo); add %s there", namespace, namespace)
}

// ownedBy says that a host is the name of a Kubernetes Service, and what to do.
func ownedBy(h hostname.Pattern, s, k *Service) string {
	return fmt.Sprintf("%s is the name of Service %s/%s: what other namespaces declare under it counts for their own workloads alone, here for those of %s. A ServiceEntry of namespace %s opens it for all",
		h, k.Ref.Namespace, k.Ref.Name, s.Ref.Namespace, k.Ref.Namespace)
}

// owned says why no host of a service counts, "" when one does.
func (w *why) owned(s *Service) string {
	said := ""
	for _, h := range s.Hosts {
		k := w.p.index.owner(w.p.class.home, h, s)
		if k == nil {
			return ""
		}
		said = ownedBy(h, s, k)
	}
	return said
}

// service says what became of a service with a host for one of the names.
func (w *why) service(s *Service, h hostname.Pattern) {
	if !s.External {
		w.say(s.Ref, false, "a Kubernetes Service opens nothing by itself; a ServiceEntry does")
		return
	}
	port := declaredPort(s, w.f.Transport, w.f.Dst.Port())
	shown, reason := w.visible(s, h)
	switch {
	case reason != "":
		w.say(s.Ref, false, "%s", reason)
		if port != nil && w.hidden == nil {
			hidden := w.Considered[len(w.Considered)-1]
			w.hidden = &hidden
		}
	case w.yields(s, shown[0]) != "":
		w.say(s.Ref, false, "%s", w.yields(s, shown[0]))
		if port != nil && w.hidden == nil {
			hidden := w.Considered[len(w.Considered)-1]
			w.hidden = &hidden
		}
	case port == nil:
		w.say(s.Ref, false, "%s", lackOf(s, w.f.Transport, w.f.Dst.Port()))
	default:
		w.opens(s, shown[0])
	}
}

// yields says why a visible service has no part in its host: those of another
// namespace do, or one that is answered for in another way; "" when it has.
func (w *why) yields(s *Service, h hostname.Pattern) string {
	host, ok := w.p.names.Get(h)
	if !ok || !slices.ContainsFunc(host.services, func(o *Service) bool { return whole(o) == s }) || host.joins(s) {
		return ""
	}
	first := host.services[0]
	if first.Ref.Namespace == s.Ref.Namespace {
		return fmt.Sprintf("ServiceEntry %s/%s declares host %s first, and its queries are answered in another way (resolution %v there, %v here)",
			first.Ref.Namespace, first.Ref.Name, h, first.Resolution, s.Resolution)
	}
	why := "which is older"
	if first.Ref.Namespace == w.p.class.identity.Namespace {
		why = "which is of the workload's own namespace"
	}
	return fmt.Sprintf("ServiceEntry %s/%s declares host %s, too, %s: what other namespaces say of the host does not count, whatever its ports", first.Ref.Namespace, first.Ref.Name, h, why)
}

// opens says whether a service that has the port is the one that counts.
func (w *why) opens(s *Service, h hostname.Pattern) {
	for _, name := range w.names {
		if !h.Matches(name) {
			continue
		}
		host, hp := w.p.LookupPort(name, w.f.Transport, w.f.Dst.Port())
		switch {
		case hp == nil: // an AuthorizationPolicy may have closed it
			w.say(s.Ref, false, "the port is closed (%s)", w.Reason)
		case host.Pattern != h:
			w.say(s.Ref, false, "host %s is less specific than %s of %s %s/%s", h, host.Pattern, hp.Rule.Kind, hp.Rule.Namespace, hp.Rule.Name)
		case *hp.Rule != s.Ref:
			w.say(s.Ref, false, "%s %s/%s declares port %d of host %s first", hp.Rule.Kind, hp.Rule.Namespace, hp.Rule.Name, hp.Number, h)
		case w.Reason == ReasonEndpoint && hp.Upstream.unreachable():
			w.say(s.Ref, false, "%s", hp.Upstream.Unsupported())
		case unfit(hp.Protocol, w.f.HostFrom) != "":
			w.say(s.Ref, false, "port %d is for %s, the connection shows its name by %s", hp.Number, protocolText(hp.Protocol), w.f.HostFrom)
		default:
			w.say(s.Ref, w.Allowed, "host %s, port %d/%v %s", h, hp.Number, w.f.Transport, protocolText(hp.Protocol))
		}
		return
	}
}

// declaredPort returns the service's port, nil when it has none like that.
func declaredPort(s *Service, t Transport, number uint16) *Port {
	for i := range s.Ports {
		if p := &s.Ports[i]; p.Number == number && p.Protocol.Transport() == t {
			return p
		}
	}
	return nil
}

// lackOf says which ports there are in the place of one.
func lackOf(s *Service, t Transport, number uint16) string {
	if declaredPort(s, t.Other(), number) != nil {
		return fmt.Sprintf("port %d is declared for %v, not for %v", number, t.Other(), t)
	}
	var have []string
	for _, p := range s.Ports {
		have = append(have, fmt.Sprintf("%d %s", p.Number, protocolText(p.Protocol)))
	}
	if len(have) == 0 {
		return "it declares no port"
	}
	return fmt.Sprintf("port %d is not declared; it has %s", number, strings.Join(have, ", "))
}

// namesAddress says whether a service names the address that is dialled.
func (w *why) namesAddress(s *Service) bool {
	a := w.f.Dst.Addr().Unmap()
	if !a.IsValid() || !s.External {
		return false
	}
	return slices.ContainsFunc(s.Addresses, func(n netip.Prefix) bool { return ipguard.Plain(n).Contains(a) }) ||
		s.Resolution == ResolutionStatic && slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool { return e.Addr.Unmap() == a })
}

// address says what became of a service that names the address.
func (w *why) address(s *Service) {
	opens := func(p Port) bool {
		return p.Protocol.Transport() == w.f.Transport && (p.Number == w.f.Dst.Port() || slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool {
			return e.Addr.Unmap() == w.f.Dst.Addr().Unmap() && endpointPort(p, e) == w.f.Dst.Port()
		}))
	}
	sc := w.p.class
	switch {
	case w.Allowed && (w.d.Rule != nil && *w.d.Rule == s.Ref || w.d.Port != nil && *w.d.Port.Rule == s.Ref):
		w.say(s.Ref, true, "names the address %v on port %d/%v", w.f.Dst.Addr(), w.f.Dst.Port(), w.f.Transport)
	case w.Reason == ReasonEndpoint && w.d.Rule != nil && *w.d.Rule == s.Ref:
		w.say(s.Ref, false, "names the address, which is on the node, or for the node alone; --allow-endpoint %v lets policies lead there", w.f.Dst.Addr().Unmap())
	case !visible(s.Export, sc.identity.Namespace, inNamespace(w.p.index.cfg.Mesh.DefaultServiceExport, s.Ref.Namespace)):
		w.say(s.Ref, false, "names the address, but is %s", notVisible(sc.identity.Namespace))
	case w.owned(s) != "":
		w.say(s.Ref, false, "names the address, but %s", w.owned(s))
	case !slices.ContainsFunc(s.Ports, opens):
		w.say(s.Ref, false, "names the address, but %s", lackOf(s, w.f.Transport, w.f.Dst.Port()))
	case w.f.Host != "":
		w.say(s.Ref, false, "names the address, but not the name %s", w.f.Host)
	case sc.sidecar.Sidecar != nil && !slices.ContainsFunc(s.Hosts, func(h hostname.Pattern) bool { return len(sc.sidecar.shows(s.Ref.Namespace, h, w.f.Dst.Port())) > 0 }):
		w.say(s.Ref, false, "names the address, but is hidden by Sidecar %s/%s", sc.sidecar.Ref.Namespace, sc.sidecar.Ref.Name)
	case w.d.Rule != nil && *w.d.Rule != s.Ref:
		w.say(s.Ref, false, "names the address as well; %s %s/%s comes first", w.d.Rule.Kind, w.d.Rule.Namespace, w.d.Rule.Name)
	default:
		w.say(s.Ref, false, "names the address, but the decision is %s", w.Reason)
	}
}
