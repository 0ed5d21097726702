// SPDX-License-Identifier: Apache-2.0

package gwstatus

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/istio"
)

// istioGroup is the group of ServiceEntries, which routes can have as parents,
// and of the kind Hostname, which is a host as a backend.
const istioGroup = "networking.istio.io"

// Codes of findings that say why a route is not acted on for a ServiceEntry, or
// that there is no backend.
const (
	noEntry   = "EGD0907"
	noPort    = "EGD0910"
	noHost    = "EGD0911"
	noBackend = "EGD1210"
)

// notInForce says what an error in an object means for traffic.
const notInForce = "this version of the object is not in force, its last good one is if there was one: "

// route judges a route for each of its parents that the controller answers for.
func (o *Observed) route(r *AnyRoute, gateways map[types.NamespacedName]*served) []gateway.RouteParentStatus {
	var out []gateway.RouteParentStatus
	findings := o.Findings[r.name()]
	for _, p := range r.parents {
		group, kind := value(p.Group, gateway.GroupName), value(p.Kind, "Gateway")
		name := types.NamespacedName{Namespace: string(value(p.Namespace, gateway.Namespace(r.GetNamespace()))), Name: string(p.Name)}
		var accepted, resolved problem
		var message string
		switch s := gateways[name]; {
		case group == gateway.GroupName && kind == "Gateway" && s != nil:
			var to []*listener
			if to, accepted = o.attach(r, p, s); accepted == (problem{}) {
				accepted = refused(findings)
			}
			if accepted == (problem{}) {
				for _, l := range to {
					l.attached[r.name()] = true
				}
			}
			resolved, message = o.resolve(r), "the route is attached"
		case group == istioGroup && kind == "ServiceEntry" && r.kind != httpRoute:
			accepted = problem{string(gateway.RouteReasonUnsupportedValue), "the route is not acted on for the ServiceEntry: an HTTPRoute, or a VirtualService, can be"}
		case group == istioGroup && kind == "ServiceEntry":
			if accepted = refused(findings); accepted == (problem{}) {
				accepted = unattached(findings, name)
			}
			resolved, message = unresolved(findings), "the route acts on what leaves for the ServiceEntry"
		default:
			continue // another controller's
		}
		out = append(out, gateway.RouteParentStatus{
			ParentRef: p, ControllerName: o.Controller,
			Conditions: []meta.Condition{
				condition(r, string(gateway.RouteConditionAccepted), accepted == problem{}, cmp.Or(accepted.reason, string(gateway.RouteReasonAccepted)), cmp.Or(accepted.message, message)),
				condition(r, string(gateway.RouteConditionResolvedRefs), resolved == problem{}, cmp.Or(resolved.reason, string(gateway.RouteReasonResolvedRefs)), cmp.Or(resolved.message, "all references are resolved")),
			},
		})
	}
	return out
}

// attach finds the listeners that a route is for. Those that are not served count
// it, too; but it is attached only if one is that is.
func (o *Observed) attach(r *AnyRoute, p gateway.ParentReference, s *served) ([]*listener, problem) {
	named := slices.DeleteFunc(slices.Clone(s.listeners), func(l *listener) bool {
		return value(p.SectionName, l.Name) != l.Name || value(p.Port, l.Port) != l.Port
	})
	allowed := slices.DeleteFunc(slices.Clone(named), func(l *listener) bool {
		return !l.takes(r.kind) || !o.allows(l, s.Namespace, r.GetNamespace())
	})
	matching := slices.DeleteFunc(slices.Clone(allowed), func(l *listener) bool { return !l.matches(r.hostnames) })
	switch {
	case len(named) == 0:
		return nil, problem{string(gateway.RouteReasonNoMatchingParent), "the Gateway has no such listener"}
	case !slices.ContainsFunc(named, (*listener).served):
		return nil, problem{string(gateway.RouteReasonNoMatchingParent), fmt.Sprintf("listener %s is not served: %s", named[0].Name, named[0].unserved())}
	case !slices.ContainsFunc(allowed, (*listener).served):
		return nil, problem{string(gateway.RouteReasonNotAllowedByListeners), fmt.Sprintf("no listener lets a %s of namespace %s attach (protocol, allowedRoutes)", r.kind, r.GetNamespace())}
	case !slices.ContainsFunc(matching, (*listener).served):
		return nil, problem{string(gateway.RouteReasonNoMatchingListenerHostname), "none of the hostnames is one of the listeners', or a more specific listener of the port has it for itself"}
	}
	return matching, problem{}
}

// allows says whether a listener takes routes of a namespace.
func (o *Observed) allows(l *listener, own, namespace string) bool {
	var n *gateway.RouteNamespaces
	if l.AllowedRoutes != nil {
		n = l.AllowedRoutes.Namespaces
	}
	from := gateway.NamespacesFromSame
	if n != nil {
		from = value(n.From, from)
	}
	switch from {
	case gateway.NamespacesFromAll:
		return true
	case gateway.NamespacesFromSame:
		return own == namespace
	case gateway.NamespacesFromSelector:
		selects, err := meta.LabelSelectorAsSelector(n.Selector) // nil selects nothing
		of, known := o.Namespaces[namespace]
		return err == nil && known && selects.Matches(labels.Set(of))
	}
	return false
}

// matches says whether a listener serves one of the names; none are all.
func (l *listener) matches(names []gateway.Hostname) bool {
	return len(names) == 0 || slices.ContainsFunc(names, func(n gateway.Hostname) bool {
		host, name := l.host(), hostname.Pattern(strings.ToLower(string(n)))
		switch {
		case host.Covers(name):
		case name.Covers(host):
			name = host
		default:
			return false
		}
		return !slices.ContainsFunc(l.narrower, func(h hostname.Pattern) bool { return h.Covers(name) })
	})
}

// resolve judges the references of a route to backends.
func (o *Observed) resolve(r *AnyRoute) problem {
	for _, ref := range r.backends {
		if p := o.backend(r, ref); p != (problem{}) {
			return p
		}
	}
	return problem{}
}

func (o *Observed) backend(r *AnyRoute, ref gateway.BackendObjectReference) problem {
	from := r.GetNamespace()
	to := object{value(ref.Group, ""), value(ref.Kind, "Service"), types.NamespacedName{Namespace: string(value(ref.Namespace, gateway.Namespace(from))), Name: string(ref.Name)}}
	switch {
	case to.group == istioGroup && to.kind == "Hostname":
		return problem{} // what it may lead to is the policy's matter
	case to.group != "" || to.kind != "Service":
		return problem{string(gateway.RouteReasonInvalidKind), fmt.Sprintf("backendRefs: kind %s of group %q: a backend is a Service, or a Hostname of group %s", to.kind, to.group, istioGroup)}
	case !o.permits(gateway.GroupName, gateway.Kind(r.kind), from, to):
		return problem{string(gateway.RouteReasonRefNotPermitted), fmt.Sprintf("backendRefs: no ReferenceGrant in namespace %s lets a %s of namespace %s use Service %s", to.Namespace, r.kind, from, to.Name)}
	case !o.Service(to.NamespacedName):
		return problem{string(gateway.RouteReasonBackendNotFound), fmt.Sprintf("backendRefs: there is no Service %s", to.NamespacedName)}
	}
	return problem{}
}

// refused says that an object has errors, and is not acted on as it is.
func refused(findings []istio.Finding) problem {
	for _, f := range findings {
		if f.Severity == istio.Error {
			return problem{string(gateway.RouteReasonUnsupportedValue), notInForce + f.Text}
		}
	}
	return problem{}
}

// unattached says why a route is not acted on for a ServiceEntry.
func unattached(findings []istio.Finding, entry types.NamespacedName) problem {
	for _, f := range findings {
		reason := gateway.RouteReasonNoMatchingParent
		switch f.Code {
		case noEntry, noPort:
		case noHost:
			reason = gateway.RouteReasonNoMatchingListenerHostname
		default:
			continue
		}
		if slices.Contains(strings.FieldsFunc(f.Text, func(c rune) bool { return c == ' ' || c == ':' }), entry.String()) {
			return problem{string(reason), f.Text}
		}
	}
	return problem{}
}

// unresolved says which backend there is not.
func unresolved(findings []istio.Finding) problem {
	for _, f := range findings {
		if f.Code == noBackend {
			return problem{string(gateway.RouteReasonBackendNotFound), f.Text}
		}
	}
	return problem{}
}
