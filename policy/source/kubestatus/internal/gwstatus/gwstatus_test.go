// SPDX-License-Identifier: Apache-2.0

package gwstatus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy/istio"
)

// The objects of the tests: a class, a Gateway "infra/gw" and a route "shop/web".
func class() *gateway.GatewayClass {
	return &gateway.GatewayClass{ObjectMeta: meta.ObjectMeta{Name: "egressd", Generation: 3}, Spec: gateway.GatewayClassSpec{ControllerName: "egressd.dev/gateway"}}
}

func gw(listeners ...gateway.Listener) *gateway.Gateway {
	return &gateway.Gateway{ObjectMeta: meta.ObjectMeta{Namespace: "infra", Name: "gw", Generation: 4}, Spec: gateway.GatewaySpec{
		GatewayClassName: "egressd", Listeners: listeners, Addresses: []gateway.GatewaySpecAddress{{Value: "192.0.2.1"}, {Value: "2001:db8::1"}},
	}}
}

func http(name string, change ...func(*gateway.Listener)) gateway.Listener {
	l := gateway.Listener{Name: gateway.SectionName(name), Port: 80, Protocol: gateway.HTTPProtocolType}
	for _, c := range change {
		c(&l)
	}
	return l
}

func https(name string, refs ...gateway.SecretObjectReference) gateway.Listener {
	return gateway.Listener{Name: gateway.SectionName(name), Port: 443, Protocol: gateway.HTTPSProtocolType, TLS: &gateway.ListenerTLSConfig{CertificateRefs: refs}}
}

func overTLSMode(name string, mode gateway.TLSModeType) gateway.Listener {
	return gateway.Listener{Name: gateway.SectionName(name), Port: 443, Protocol: gateway.TLSProtocolType, TLS: &gateway.ListenerTLSConfig{Mode: &mode}}
}

func from(f gateway.FromNamespaces, selector *meta.LabelSelector) func(*gateway.Listener) {
	return func(l *gateway.Listener) {
		l.AllowedRoutes = &gateway.AllowedRoutes{Namespaces: &gateway.RouteNamespaces{From: &f, Selector: selector}}
	}
}

func host(h gateway.Hostname) func(*gateway.Listener) {
	return func(l *gateway.Listener) { l.Hostname = &h }
}

func kinds(names ...gateway.Kind) func(*gateway.Listener) {
	return func(l *gateway.Listener) {
		l.AllowedRoutes = &gateway.AllowedRoutes{}
		for _, k := range names {
			l.AllowedRoutes.Kinds = append(l.AllowedRoutes.Kinds, gateway.RouteGroupKind{Kind: k})
		}
	}
}

func protocol(p gateway.ProtocolType, port gateway.PortNumber) func(*gateway.Listener) {
	return func(l *gateway.Listener) { l.Protocol, l.Port = p, port }
}

func route(parents ...gateway.ParentReference) *gateway.HTTPRoute {
	r := &gateway.HTTPRoute{ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "web", Generation: 5}}
	r.Spec.ParentRefs = parents
	return r
}

func to(change ...func(*gateway.ParentReference)) gateway.ParentReference {
	infra := gateway.Namespace("infra")
	p := gateway.ParentReference{Namespace: &infra, Name: "gw"}
	for _, c := range change {
		c(&p)
	}
	return p
}

func entry(name gateway.ObjectName) gateway.ParentReference {
	group, kind := gateway.Group(istioGroup), gateway.Kind("ServiceEntry")
	return gateway.ParentReference{Group: &group, Kind: &kind, Name: name}
}

func backend(namespace, kind string) gateway.HTTPRouteRule {
	b := gateway.HTTPBackendRef{}
	b.Name = "api"
	if namespace != "" {
		n := gateway.Namespace(namespace)
		b.Namespace = &n
	}
	if kind != "" {
		k := gateway.Kind(kind)
		b.Kind = &k
	}
	if kind == "Hostname" {
		g := gateway.Group(istioGroup)
		b.Group = &g
	}
	return gateway.HTTPRouteRule{BackendRefs: []gateway.HTTPBackendRef{b}}
}

func grant(namespace, fromNamespace string, fromKind, toKind gateway.Kind, name string) *gateway.ReferenceGrant {
	g := &gateway.ReferenceGrant{ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: "g"}}
	g.Spec.From = []gateway.ReferenceGrantFrom{{Group: gateway.GroupName, Kind: fromKind, Namespace: gateway.Namespace(fromNamespace)}}
	g.Spec.To = []gateway.ReferenceGrantTo{{Kind: toKind}}
	if name != "" {
		n := gateway.ObjectName(name)
		g.Spec.To[0].Name = &n
	}
	return g
}

func objects(g *gateway.Gateway, routes ...*gateway.HTTPRoute) Observed {
	var all []AnyRoute
	for _, r := range routes {
		all = append(all, OfHTTP(r))
	}
	return Observed{
		Controller: "egressd.dev/gateway", Classes: []*gateway.GatewayClass{class()}, Gateways: []*gateway.Gateway{g}, Routes: all,
		Namespaces: map[string]map[string]string{"infra": {}, "shop": {"team": "shop"}},
		Service:    func(n types.NamespacedName) bool { return n.Name == "api" && n.Namespace != "empty" },
		Certificate: func(n types.NamespacedName) error {
			if n.Name != "cert" {
				return errors.New("not found")
			}
			return nil
		},
	}
}

// said writes conditions as "Type=Status Reason", and checks what all must have.
func said(t *testing.T, generation int64, conditions []meta.Condition) string {
	t.Helper()
	var out []string
	for _, c := range conditions {
		if c.ObservedGeneration != generation || c.Message == "" || c.Reason == "" {
			t.Errorf("%+v", c)
		}
		s := c.Type + "=" + string(c.Status)
		if c.Reason != c.Type && c.Reason != "NoConflicts" {
			s += " " + c.Reason
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// TestClass: the class is accepted, and one of another controller is left alone.
func TestClass(t *testing.T) {
	o := objects(gw(http("a")))
	other := class()
	other.Name, other.Spec.ControllerName = "other", "example.com/other"
	odd := class()
	odd.Name, odd.Spec.ParametersRef = "odd", &gateway.ParametersReference{Kind: "ConfigMap", Name: "x"}
	o.Classes = append(o.Classes, other, odd)
	elsewhere, served, unknown := gw(http("a")), gw(http("a")), gw(http("a"))
	elsewhere.Name, elsewhere.Spec.GatewayClassName = "elsewhere", "other"
	served.Name, served.Spec.GatewayClassName = "served", "odd" // by what there is without its parameters
	unknown.Name, unknown.Spec.GatewayClassName = "unknown", "none"
	o.Gateways = append(o.Gateways, elsewhere, served, unknown)
	got := Compute(o)
	if len(got.Classes) != 2 || len(got.Gateways) != 2 || got.Gateways[nameOf(served)].Conditions == nil {
		t.Errorf("%d classes, %d gateways", len(got.Classes), len(got.Gateways))
	}
	if s := said(t, 3, got.Classes["egressd"].Conditions); s != "Accepted=True" {
		t.Error(s)
	}
	if s := said(t, 3, got.Classes["odd"].Conditions); s != "Accepted=False InvalidParameters" {
		t.Error(s)
	}
	o.Classes = nil // that of the default name needs no object
	if got := Compute(o); len(got.Classes) != 0 || len(got.Gateways) != 1 || got.Gateways[nameOf(o.Gateways[0])].Conditions == nil {
		t.Errorf("without classes: %v", got)
	}
	taken := class()
	taken.Spec.ControllerName = "example.com/other"
	o.Classes = []*gateway.GatewayClass{taken}
	if got := Compute(o); len(got.Gateways) != 0 {
		t.Errorf("of a class of another controller: %v", got)
	}
}

// TestGateway: the documented conditions of Gateways and their listeners.
func TestGateway(t *testing.T) {
	infra, other := gateway.Namespace("infra"), gateway.Namespace("other")
	configMap := gateway.Kind("ConfigMap")
	plain := http("a")
	plain.TLS = &gateway.ListenerTLSConfig{}
	addresses := func(list ...gateway.GatewaySpecAddress) *gateway.Gateway {
		g := gw(http("a"))
		g.Spec.Addresses = list
		return g
	}
	hostnameType, named := gateway.HostnameAddressType, gateway.NamedAddressType
	const (
		good    = "Accepted=True, Programmed=True, ResolvedRefs=True, Conflicted=False"
		well    = "Accepted=True, Programmed=True, ResolvedRefs=True"
		some    = "Accepted=True ListenersNotValid, Programmed=True, ResolvedRefs=True"
		none    = "Accepted=False ListenersNotValid, Programmed=False Invalid, ResolvedRefs=True"
		dangles = "Accepted=False ListenersNotValid, Programmed=False Invalid, ResolvedRefs=False ListenersNotResolved"
		ended   = "Accepted=False UnsupportedProtocol, Programmed=False Invalid, ResolvedRefs=True, Conflicted=False"
		invalid = "Accepted=True, Programmed=False Invalid, ResolvedRefs=False InvalidCertificateRef, Conflicted=False"
		refuses = "Accepted=True, Programmed=False Invalid, ResolvedRefs=False RefNotPermitted, Conflicted=False"
		bare    = "Accepted=True, Programmed=True, ResolvedRefs=False ListenersNotResolved"
		odd     = "Accepted=False UnsupportedValue, Programmed=False Invalid, ResolvedRefs=True, Conflicted=False"
		clashes = "Accepted=False ProtocolConflict, Programmed=False Invalid, ResolvedRefs=True, Conflicted=True ProtocolConflict"
		twice   = "Accepted=False HostnameConflict, Programmed=False Invalid, ResolvedRefs=True, Conflicted=True HostnameConflict"
	)
	for name, c := range map[string]struct {
		g      *gateway.Gateway
		change func(*Observed)
		// gateway are its conditions, listeners those of each.
		gateway   string
		listeners []string
	}{
		"HTTP":               {g: gw(http("a")), gateway: well, listeners: []string{good}},
		"TCP":                {g: gw(http("a", protocol("TCP", 3306))), gateway: well, listeners: []string{good}},
		"TLS passed through": {g: gw(overTLSMode("a", gateway.TLSModePassthrough)), gateway: well, listeners: []string{good}},
		"TLS terminated, with a certificate": {g: gw(func() gateway.Listener {
			l := overTLSMode("a", gateway.TLSModeTerminate)
			l.TLS.CertificateRefs = []gateway.SecretObjectReference{{Name: "cert"}}
			return l
		}()), gateway: well, listeners: []string{good}},
		"TLS of another mode":     {g: gw(overTLSMode("a", "Other")), gateway: none, listeners: []string{odd}},
		"HTTPS":                   {g: gw(https("a", gateway.SecretObjectReference{Name: "cert"})), gateway: well, listeners: []string{good}},
		"HTTPS beside HTTP":       {g: gw(http("a"), https("b", gateway.SecretObjectReference{Name: "cert"})), gateway: well, listeners: []string{good, good}},
		"its own namespace named": {g: gw(https("a", gateway.SecretObjectReference{Name: "cert", Namespace: &infra})), gateway: well, listeners: []string{good}},
		"no such Secret":          {g: gw(https("a", gateway.SecretObjectReference{Name: "none"})), gateway: bare, listeners: []string{invalid}},
		"one of two Secrets": {g: gw(https("a", gateway.SecretObjectReference{Name: "cert"}, gateway.SecretObjectReference{Name: "none"})), gateway: bare,
			listeners: []string{invalid}},
		"no Secret":         {g: gw(https("a")), gateway: bare, listeners: []string{invalid}},
		"another kind":      {g: gw(https("a", gateway.SecretObjectReference{Name: "cert", Kind: &configMap})), gateway: bare, listeners: []string{invalid}},
		"another namespace": {g: gw(https("a", gateway.SecretObjectReference{Name: "cert", Namespace: &other})), gateway: bare, listeners: []string{refuses}},
		"another namespace, granted": {g: gw(https("a", gateway.SecretObjectReference{Name: "cert", Namespace: &other})),
			change: func(o *Observed) {
				o.Grants = []*gateway.ReferenceGrant{grant("other", "infra", "Gateway", "Secret", "cert")}
			},
			gateway: well, listeners: []string{good}},
		"granted to routes": {g: gw(https("a", gateway.SecretObjectReference{Name: "cert", Namespace: &other})),
			change: func(o *Observed) {
				o.Grants = []*gateway.ReferenceGrant{grant("other", "infra", "HTTPRoute", "Secret", "")}
			},
			gateway: bare, listeners: []string{refuses}},
		"HTTP with TLS": {g: gw(plain), gateway: dangles,
			listeners: []string{"Accepted=False UnsupportedValue, Programmed=False Invalid, ResolvedRefs=False InvalidCertificateRef, Conflicted=False"}},
		"UDP":                        {g: gw(http("a", protocol("UDP", 53))), gateway: none, listeners: []string{ended}},
		"an unknown protocol beside": {g: gw(http("a"), http("b", protocol("example.com/x", 81))), gateway: some, listeners: []string{good, ended}},
		"routes that it cannot have": {g: gw(http("a", kinds("HTTPRoute", "TCPRoute"))), gateway: "Accepted=True, Programmed=True, ResolvedRefs=False ListenersNotResolved",
			listeners: []string{"Accepted=True, Programmed=True, ResolvedRefs=False InvalidRouteKinds, Conflicted=False"}},
		"one host twice": {g: gw(http("a", host("x.example.com")), http("b", host("X.example.com")), http("c", host("y.example.com"))), gateway: some,
			listeners: []string{twice, twice, good}},
		"two protocols at a port": {g: gw(http("a"), http("b", protocol("TCP", 80)), http("c", protocol("TCP", 81))), gateway: some,
			listeners: []string{clashes, clashes, good}},
		"TCP and UDP at a port": {g: gw(http("a", protocol("TCP", 53)), http("b", protocol("UDP", 53))), gateway: some, listeners: []string{good, ended}},
		"an error in it": {g: gw(http("a"), https("b", gateway.SecretObjectReference{Name: "cert"})), change: func(o *Observed) {
			o.Findings = map[ObjectKey][]istio.Finding{{GatewayKind, nameOf(o.Gateways[0])}: {{Severity: istio.Error, Text: "e"}}}
		}, gateway: "Accepted=False Invalid, Programmed=False Invalid, ResolvedRefs=True", listeners: []string{odd, odd}},
		"a warning of it": {g: gw(http("a")), change: func(o *Observed) {
			o.Findings = map[ObjectKey][]istio.Finding{{GatewayKind, nameOf(o.Gateways[0])}: {{Severity: istio.Warning, Text: "w"}}}
		}, gateway: well, listeners: []string{good}},
		"no address":           {g: addresses(), gateway: "Accepted=True, Programmed=False AddressNotAssigned, ResolvedRefs=True", listeners: []string{good}},
		"any address":          {g: addresses(gateway.GatewaySpecAddress{}), gateway: "Accepted=True, Programmed=False AddressNotAssigned, ResolvedRefs=True", listeners: []string{good}},
		"an address by name":   {g: addresses(gateway.GatewaySpecAddress{Value: "192.0.2.1"}, gateway.GatewaySpecAddress{Type: &hostnameType, Value: "gw.example.com"}), gateway: well, listeners: []string{good}},
		"an address of others": {g: addresses(gateway.GatewaySpecAddress{Type: &named, Value: "x"}), gateway: "Accepted=False UnsupportedAddress, Programmed=False Invalid, ResolvedRefs=True", listeners: []string{good}},
		"parameters": {g: func() *gateway.Gateway {
			g := gw(http("a"))
			g.Spec.Infrastructure = &gateway.GatewayInfrastructure{ParametersRef: &gateway.LocalParametersReference{Kind: "ConfigMap", Name: "x"}}
			return g
		}(), gateway: "Accepted=False InvalidParameters, Programmed=False Invalid, ResolvedRefs=True", listeners: []string{good}},
	} {
		t.Run(name, func(t *testing.T) {
			o := objects(c.g)
			if c.change != nil {
				c.change(&o)
			}
			got := Compute(o).Gateways[nameOf(c.g)]
			if s := said(t, 4, got.Conditions); s != c.gateway {
				t.Errorf("got  %s\nwant %s", s, c.gateway)
			}
			for i, l := range got.Listeners {
				if s := said(t, 4, l.Conditions); s != c.listeners[i] {
					t.Errorf("listener %s\ngot  %s\nwant %s", l.Name, s, c.listeners[i])
				}
				if l.SupportedKinds == nil {
					t.Errorf("listener %s: supportedKinds is required", l.Name)
				}
			}
			if at := strings.Contains(c.gateway, "Programmed=True"); at != (len(got.Addresses) == 2) || !at && len(got.Addresses) != 0 {
				t.Errorf("addresses %v", got.Addresses)
			}
		})
	}
}

// TestAddresses: a Gateway is reached at the nodes that serve it, unless it says where.
func TestAddresses(t *testing.T) {
	var many []string
	for i := range 2 * maxAddresses {
		many = append(many, fmt.Sprintf("192.0.2.%d", i+1))
	}
	written := gw(http("a"))
	silent := gw(http("a"))
	silent.Spec.Addresses = nil
	invalid := gw(http("a", protocol("UDP", 53)))
	invalid.Spec.Addresses = nil
	for name, c := range map[string]struct {
		g            *gateway.Gateway
		nodes        []string
		programmed   string
		says, denies string
		want         []string
	}{
		"no node":                       {silent, nil, "False AddressNotAssigned", "gateway-name=gw,egressd.dev/gateway-namespace=infra", "", nil},
		"nodes":                         {silent, []string{"192.0.2.9", "2001:db8::9"}, "True", "those of the nodes", "", []string{"192.0.2.9", "2001:db8::9"}},
		"more nodes than there may be":  {silent, many, "True", "those of the nodes", "", many[:maxAddresses]},
		"nodes behind a load balancer":  {written, []string{"192.0.2.9"}, "True", "spec.addresses", "no ready pod", []string{"192.0.2.1", "2001:db8::1"}},
		"a load balancer without nodes": {written, nil, "True", "no ready pod", "", []string{"192.0.2.1", "2001:db8::1"}},
		"one that is not valid":         {invalid, []string{"192.0.2.9"}, "False Invalid", "", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := objects(c.g)
			o.Serving = func(labels map[string]string) []string {
				if len(labels) != 2 || labels["gateway.networking.k8s.io/gateway-name"] != c.g.Name || labels["egressd.dev/gateway-namespace"] != c.g.Namespace {
					t.Errorf("asked for nodes with %v", labels)
				}
				return c.nodes
			}
			got := Compute(o).Gateways[nameOf(c.g)]
			if s := said(t, 4, got.Conditions); !strings.Contains(s, "Programmed="+c.programmed+",") {
				t.Errorf("it is %s, want Programmed=%s", s, c.programmed)
			}
			message := ""
			for _, one := range got.Conditions {
				if one.Type == "Programmed" {
					message = one.Message
				}
			}
			if !strings.Contains(message, c.says) || c.denies != "" && strings.Contains(message, c.denies) {
				t.Errorf("it says %q", message)
			}
			var at []string
			for _, a := range got.Addresses {
				if at = append(at, a.Value); *a.Type != gateway.IPAddressType {
					t.Error(*a.Type)
				}
			}
			if !slices.Equal(at, c.want) {
				t.Errorf("addresses %v, want %v", at, c.want)
			}
		})
	}
}

// TestSupportedKinds: they are those that are read, of those that are asked for.
func TestSupportedKinds(t *testing.T) {
	g := gw(http("http"), http("tcp", protocol("TCP", 81)), overTLSMode("tls", gateway.TLSModePassthrough), https("https"), http("udp", protocol("UDP", 53)),
		http("one", kinds("GRPCRoute"), protocol("HTTP", 82)), http("some", kinds("HTTPRoute", "TLSRoute"), protocol("HTTP", 83)), http("none", kinds("TCPRoute"), protocol("HTTP", 84)))
	var got []string
	for _, l := range Compute(objects(g)).Gateways[nameOf(g)].Listeners {
		s := string(l.Name)
		for _, k := range l.SupportedKinds {
			if *k.Group != gateway.GroupName {
				t.Error(*k.Group)
			}
			s += " " + string(k.Kind)
		}
		got = append(got, s)
	}
	if want := []string{"http HTTPRoute GRPCRoute", "tcp TCPRoute", "tls TLSRoute", "https HTTPRoute GRPCRoute", "udp", "one GRPCRoute", "some HTTPRoute", "none"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestRoute: the documented conditions of routes, and attachedRoutes.
func TestRoute(t *testing.T) {
	section, none, port := gateway.SectionName("b"), gateway.SectionName("none"), gateway.PortNumber(81)
	all := from(gateway.NamespacesFromAll, nil)
	team := func(v string) func(*gateway.Listener) {
		return from(gateway.NamespacesFromSelector, &meta.LabelSelector{MatchLabels: map[string]string{"team": v}})
	}
	ruled := func(r *gateway.HTTPRoute, rules ...gateway.HTTPRouteRule) *gateway.HTTPRoute {
		r.Spec.Rules = rules
		return r
	}
	hosts := func(r *gateway.HTTPRoute, names ...gateway.Hostname) *gateway.HTTPRoute {
		r.Spec.Hostnames = names
		return r
	}
	mirror := gateway.HTTPRouteRule{Filters: []gateway.HTTPRouteFilter{{Type: gateway.HTTPRouteFilterRequestMirror, RequestMirror: &gateway.HTTPRequestMirrorFilter{BackendRef: gateway.BackendObjectReference{Name: "none"}}}}}
	const good = "Accepted=True, ResolvedRefs=True"
	two := gw(http("a", all), http("b", all, protocol("HTTP", 81)))
	for name, c := range map[string]struct {
		g        *gateway.Gateway
		r        *gateway.HTTPRoute
		change   func(*Observed)
		want     string
		attached []int32
	}{
		"the whole Gateway": {g: two, r: ruled(route(to()), backend("", "")), want: good, attached: []int32{1, 1}},
		"a section":         {g: two, r: route(to(func(p *gateway.ParentReference) { p.SectionName = &section })), want: good, attached: []int32{0, 1}},
		"a port":            {g: two, r: route(to(func(p *gateway.ParentReference) { p.Port = &port })), want: good, attached: []int32{0, 1}},
		"no such section":   {g: two, r: route(to(func(p *gateway.ParentReference) { p.SectionName = &none })), want: "Accepted=False NoMatchingParent, ResolvedRefs=True", attached: []int32{0, 0}},
		"same namespace":    {g: gw(http("a")), r: route(to()), want: "Accepted=False NotAllowedByListeners, ResolvedRefs=True", attached: []int32{0}},
		"selected":          {g: gw(http("a", team("shop"))), r: route(to()), want: good, attached: []int32{1}},
		"not selected":      {g: gw(http("a", team("other"))), r: route(to()), want: "Accepted=False NotAllowedByListeners, ResolvedRefs=True", attached: []int32{0}},
		"no selector":       {g: gw(http("a", from(gateway.NamespacesFromSelector, nil))), r: route(to()), want: "Accepted=False NotAllowedByListeners, ResolvedRefs=True", attached: []int32{0}},
		"other kinds": {g: gw(http("a", kinds("GRPCRoute"), func(l *gateway.Listener) {
			all := gateway.NamespacesFromAll
			l.AllowedRoutes.Namespaces = &gateway.RouteNamespaces{From: &all}
		})), r: route(to()), want: "Accepted=False NotAllowedByListeners, ResolvedRefs=True", attached: []int32{0}},
		"a host of it": {g: gw(http("a", all, host("*.example.com"))), r: hosts(route(to()), "a.b.example.com"), want: good, attached: []int32{1}},
		"a wider host": {g: gw(http("a", all, host("a.example.com"))), r: hosts(route(to()), "*.example.com"), want: good, attached: []int32{1}},
		"another host": {g: gw(http("a", all, host("*.example.com"))), r: hosts(route(to()), "example.com"), want: "Accepted=False NoMatchingListenerHostname, ResolvedRefs=True", attached: []int32{0}},
		"a listener that is not served counts it":   {g: gw(http("a", all), http("b", all, protocol("HTTP", 81)), http("c", all, protocol("TCP", 81))), r: route(to()), want: good, attached: []int32{1, 1, 0}},
		"listeners that are not served have nobody": {g: gw(http("a", all), http("c", all, protocol("TCP", 80))), r: route(to()), want: "Accepted=False NoMatchingParent, ResolvedRefs=True", attached: []int32{0, 0}},
		"a listener over TLS":                       {g: gw(https("a", gateway.SecretObjectReference{Name: "cert"})), r: route(to()), want: "Accepted=False NotAllowedByListeners, ResolvedRefs=True", attached: []int32{0}},
		"no such Service": {g: two, r: ruled(route(to()), backend("empty", "")), change: func(o *Observed) {
			o.Grants = []*gateway.ReferenceGrant{grant("empty", "shop", "HTTPRoute", "Service", "")}
		}, want: "Accepted=True, ResolvedRefs=False BackendNotFound", attached: []int32{1, 1}},
		"a mirror to none":  {g: two, r: ruled(route(to()), mirror), want: "Accepted=True, ResolvedRefs=False BackendNotFound", attached: []int32{1, 1}},
		"a kind of others":  {g: two, r: ruled(route(to()), backend("", "Bucket")), want: "Accepted=True, ResolvedRefs=False InvalidKind", attached: []int32{1, 1}},
		"a host as backend": {g: two, r: ruled(route(to()), backend("", "Hostname")), want: good, attached: []int32{1, 1}},
		"another namespace": {g: two, r: ruled(route(to()), backend("other", "")), want: "Accepted=True, ResolvedRefs=False RefNotPermitted", attached: []int32{1, 1}},
		"granted": {g: two, r: ruled(route(to()), backend("other", "")), change: func(o *Observed) {
			o.Grants = []*gateway.ReferenceGrant{grant("other", "shop", "HTTPRoute", "Service", "api")}
		}, want: good, attached: []int32{1, 1}},
		"another is granted": {g: two, r: ruled(route(to()), backend("other", "")), change: func(o *Observed) {
			o.Grants = []*gateway.ReferenceGrant{grant("other", "shop", "HTTPRoute", "Service", "db")}
		}, want: "Accepted=True, ResolvedRefs=False RefNotPermitted", attached: []int32{1, 1}},
		"granted to others": {g: two, r: ruled(route(to()), backend("other", "")), change: func(o *Observed) {
			o.Grants = []*gateway.ReferenceGrant{grant("other", "infra", "HTTPRoute", "Service", "")}
		}, want: "Accepted=True, ResolvedRefs=False RefNotPermitted", attached: []int32{1, 1}},
		"granted elsewhere": {g: two, r: ruled(route(to()), backend("other", "")), change: func(o *Observed) {
			o.Grants = []*gateway.ReferenceGrant{grant("third", "shop", "HTTPRoute", "Service", "")}
		}, want: "Accepted=True, ResolvedRefs=False RefNotPermitted", attached: []int32{1, 1}},
		"an error in it": {g: two, r: route(to()), change: func(o *Observed) {
			o.Findings = map[ObjectKey][]istio.Finding{o.Routes[0].name(): {{Severity: istio.Warning, Text: "w"}, {Severity: istio.Error, Text: "e"}}}
		}, want: "Accepted=False UnsupportedValue, ResolvedRefs=True", attached: []int32{0, 0}},
		"an error in another kind of its name": {g: two, r: route(to()), change: func(o *Observed) {
			o.Findings = map[ObjectKey][]istio.Finding{{grpcRoute, o.Routes[0].name().NamespacedName}: {{Severity: istio.Error, Text: "e"}}}
		}, want: good, attached: []int32{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			o := objects(c.g, c.r)
			if c.change != nil {
				c.change(&o)
			}
			got := Compute(o)
			parents := got.Routes[o.Routes[0].name()]
			if len(parents) != 1 || parents[0].ControllerName != "egressd.dev/gateway" || fmt.Sprint(parents[0].ParentRef) != fmt.Sprint(c.r.Spec.ParentRefs[0]) {
				t.Fatalf("%+v", parents)
			}
			if s := said(t, 5, parents[0].Conditions); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
			for i, l := range got.Gateways[nameOf(c.g)].Listeners {
				if l.AttachedRoutes != c.attached[i] {
					t.Errorf("listener %s has %d routes, want %d", l.Name, l.AttachedRoutes, c.attached[i])
				}
			}
		})
	}
}

// TestParents: a route has an entry for each parent that is ours, and none for
// those of others.
func TestParents(t *testing.T) {
	elsewhere := to(func(p *gateway.ParentReference) { p.Name = "elsewhere" })
	service := gateway.Kind("Service")
	core := gateway.Group("")
	r := route(to(), elsewhere, entry("api"), gateway.ParentReference{Group: &core, Kind: &service, Name: "api"})
	others := route(elsewhere)
	others.Name = "others"
	got := Compute(objects(gw(http("a", from(gateway.NamespacesFromAll, nil))), r, others))
	if len(got.Routes) != 1 {
		t.Fatalf("%+v", got.Routes)
	}
	var names []string
	for _, p := range got.Routes[ObjectKey{httpRoute, nameOf(r)}] {
		names = append(names, string(p.ParentRef.Name)+" "+said(t, 5, p.Conditions))
	}
	if want := []string{"gw Accepted=True, ResolvedRefs=True", "api Accepted=True, ResolvedRefs=True"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}

// TestServiceEntry: what becomes of a route of a ServiceEntry is what the
// policy's reader said.
func TestServiceEntry(t *testing.T) {
	read := func(t *testing.T, yaml string) []istio.Finding {
		t.Helper()
		r := istio.NewReader(istio.Options{})
		_, findings := r.Load([]istio.File{{Name: "kubernetes:HTTPRoute/shop/web", Data: []byte(yaml)}, {Name: "entry", Data: []byte(serviceEntry)}})
		return append(findings, r.Analyze()...)
	}
	for name, c := range map[string]struct{ parent, backend, want string }{
		"it acts":        {"name: api", "api.example.com, port: 80", "Accepted=True, ResolvedRefs=True"},
		"no such entry":  {"name: none", "api.example.com, port: 80", "Accepted=False NoMatchingParent, ResolvedRefs=True"},
		"no such port":   {"name: api, port: 81", "api.example.com, port: 80", "Accepted=False NoMatchingParent, ResolvedRefs=True"},
		"no port":        {"name: api", "api.example.com", "Accepted=False UnsupportedValue, ResolvedRefs=True"},
		"no such host":   {"name: api", "none.example.com, port: 80", "Accepted=True, ResolvedRefs=False BackendNotFound"},
		"the longer one": {"name: api-2", "api.example.com, port: 80", "Accepted=False NoMatchingParent, ResolvedRefs=True"},
	} {
		t.Run(name, func(t *testing.T) {
			yaml := fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: shop}, spec: {
  parentRefs: [{group: networking.istio.io, kind: ServiceEntry, %s}],
  rules: [{backendRefs: [{group: networking.istio.io, kind: Hostname, name: %s}]}]}}`, c.parent, c.backend)
			name, _, _ := strings.Cut(strings.TrimPrefix(c.parent, "name: "), ",")
			r := route(entry(gateway.ObjectName(name)))
			o := objects(gw(http("a")), r)
			o.Findings = map[ObjectKey][]istio.Finding{o.Routes[0].name(): slices.DeleteFunc(read(t, yaml), func(f istio.Finding) bool { return !strings.HasPrefix(f.File, "kubernetes:") })}
			parents := Compute(o).Routes[o.Routes[0].name()]
			if len(parents) != 1 {
				t.Fatal(parents)
			}
			if s := said(t, 5, parents[0].Conditions); s != c.want {
				t.Errorf("got  %s\nwant %s\n%v", s, c.want, o.Findings)
			}
		})
	}
}

const serviceEntry = `{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: api, namespace: shop}, spec: {
  hosts: [api.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}}`
