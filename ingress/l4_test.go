// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// backendService is a Kubernetes Service with one endpoint.
func backendService(name string, pr policy.Protocol, at netip.AddrPort) *policy.Service {
	return &policy.Service{
		Ref:   policy.Ref{Kind: "Service", Namespace: "default", Name: name},
		Hosts: []hostname.Pattern{hostname.Pattern(name)}, Resolution: policy.ResolutionStatic,
		Ports:     []policy.Port{{Number: 1, TargetPort: at.Port(), Name: "p", Protocol: pr}},
		Endpoints: []policy.Endpoint{{Addr: at.Addr()}},
	}
}

func gatewayServer(port uint16, pr policy.Protocol, tls *policy.ServerTLS, host hostname.Pattern) policy.GatewayServer {
	return policy.GatewayServer{Name: "s" + strconv.Itoa(int(port)) + string(host), Port: port, Protocol: pr, TLS: tls,
		Hosts: []hostname.Pattern{host}, HostNamespaces: []string{"*"}}
}

func lead(host string) []*policy.WeightedDestination {
	return []*policy.WeightedDestination{{Destination: policy.Destination{Host: host, Port: 1}}}
}

// TestTLSAndTCPListeners: TLS is passed through by its SNI, TCP as it comes;
// what would be terminated without a certificate is refused and said.
func TestTLSAndTCPListeners(t *testing.T) {
	origin := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "origin of "+r.TLS.ServerName)
	}))
	defer origin.Close()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "banner")
			c.Close()
		}
	}()
	tlsPort, tcpPort, onlyEnd := freePort(t), freePort(t), freePort(t)
	ref := policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "v"}
	end := &policy.ServerTLS{Mode: policy.ServerSimple}
	s, err := policy.Compile(&policy.Config{
		GatewaySelector:  map[string]string{"istio": "ingressgateway"},
		AllowedEndpoints: []policy.AllowedEndpoint{{Prefix: netip.MustParsePrefix("127.0.0.1/32")}},
		Services: []*policy.Service{
			backendService("tls", policy.ProtocolTLS, netip.MustParseAddrPort(origin.Listener.Addr().String())),
			backendService("tcp", policy.ProtocolTCP, netip.MustParseAddrPort(echo.Addr().String())),
		},
		Gateways: []*policy.Gateway{{Ref: policy.Ref{Kind: "Gateway", Namespace: "default", Name: "gw"}, Servers: []policy.GatewayServer{
			gatewayServer(tlsPort, policy.ProtocolTLS, &policy.ServerTLS{}, "example.com"),
			gatewayServer(tlsPort, policy.ProtocolHTTPS, end, "ends.example.com"),
			gatewayServer(tcpPort, policy.ProtocolTCP, nil, "*"),
			gatewayServer(onlyEnd, policy.ProtocolHTTPS, end, "*"),
		}}},
		VirtualServices: []*policy.VirtualService{{
			Ref: ref, Hosts: []hostname.Pattern{"*"}, Gateways: []string{"default/gw"},
			TLS:  []*policy.TLSRule{{Ref: ref, Matches: []*policy.L4Match{{SNIHosts: []hostname.Pattern{"example.com"}}}, Route: lead("tls")}},
			TCP:  []*policy.TCPRule{{Ref: ref, Matches: []*policy.L4Match{{Port: tcpPort}}, Route: lead("tcp")}},
			HTTP: []*policy.HTTPRule{{Ref: ref, DirectResponse: &policy.DirectResponse{Status: 200}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := New(Options{
		Snapshot: func() *policy.Snapshot { return s }, Resolver: noResolver{}, Sink: flow.NewLog(64),
		Log: slog.New(slog.DiscardHandler), Rand: func() uint64 { return 0 },
	})
	if err := in.Apply(s); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := in.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if n := len(in.Addresses()); n != 3 {
		t.Errorf("listening on %v, want three addresses", in.Addresses())
	}
	if got := strings.Join(in.Skipped(), "\n"); strings.Count(got, "names no certificate") != 2 {
		t.Errorf("left out: %s", got)
	}
	roots := x509.NewCertPool()
	roots.AddCert(origin.Certificate())
	for _, host := range []string{"127.0.0.1", "::1"} {
		at := net.JoinHostPort(host, strconv.Itoa(int(tlsPort)))
		if body, err := fetch(at, "example.com", roots); body != "origin of example.com" {
			t.Errorf("%s: %q %v", at, body, err)
		}
		for _, sni := range []string{"ends.example.com", "other.example.com", ""} {
			if body, err := fetch(at, sni, nil); err == nil {
				t.Errorf("%s with SNI %q: %q", at, sni, body)
			}
			if body, err := fetch(origin.Listener.Addr().String(), sni, nil); body != "origin of "+sni {
				t.Errorf("the origin itself with SNI %q: %q %v", sni, body, err)
			}
		}
		c, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(int(tcpPort))))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "banner" {
			t.Errorf("tcp by %s: %q %v", host, got, err)
		}
		c.Close()
	}
}

// fetch asks for / over TLS with an SNI at an address; nil roots: whoever it is.
func fetch(at, sni string, roots *x509.CertPool) (string, error) {
	c, err := tls.Dial("tcp", at, &tls.Config{ServerName: sni, RootCAs: roots, InsecureSkipVerify: roots == nil})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	all, err := io.ReadAll(c)
	_, body, _ := strings.Cut(string(all), "\r\n\r\n")
	return body, err
}
