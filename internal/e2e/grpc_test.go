// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// speaker is the service that testdata/grpc calls.
var speaker = grpc.ServiceDesc{
	ServiceName: "test.Speaker", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: speakOnce}},
	Streams: []grpc.StreamDesc{{StreamName: "Both", Handler: speakOn, ServerStreams: true, ClientStreams: true}},
}

func speakOnce(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := new(wrapperspb.BytesValue)
	if err := decode(in); err != nil {
		return nil, err
	}
	switch string(in.Value) {
	case "fail":
		return nil, status.Error(codes.FailedPrecondition, "as you said")
	case "wait":
		if _, ok := ctx.Deadline(); !ok {
			return nil, status.Error(codes.Internal, "the deadline did not come")
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return in, nil
}

func speakOn(_ any, s grpc.ServerStream) error {
	for {
		in := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.SendMsg(in); err != nil {
			return err
		}
	}
}

// serveGRPC has grpc-go serve at an address of the internet.
func (n *node) serveGRPC(t *testing.T, at netip.AddrPort, options ...grpc.ServerOption) {
	t.Helper()
	ln, err := n.Net.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(options...)
	g.RegisterService(&speaker, nil)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
}

// grpcPolicy allows grpc.example: in plain text (50051), in TLS of its own (443), and
// in TLS that egressd adds (80). Visitors of the Gateway come to it as well.
func grpcPolicy(certs issuer) string {
	return nameEntry("grpc", "grpc.example", "{number: 50051, name: grpc, protocol: GRPC}, {number: 443, name: tls, protocol: TLS}, {number: 80, name: grpc-tls, protocol: GRPC, targetPort: 443}") +
		destinationRule("grpc", "grpc.example", "{portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, caCertificates: "+certs.file("ca.crt")+"}}]}") + `---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: grpc, protocol: GRPC}, hosts: [grpc.example]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [grpc.example], tls: {mode: SIMPLE, serverCertificate: ` + certs.file("grpc.crt") + `, privateKey: ` + certs.file("grpc.key") + `}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gw}
spec:
  hosts: [grpc.example]
  gateways: [gw]
  http:
  - match: [{uri: {prefix: /test.Speaker/}}]
    route: [{destination: {host: grpc.example, port: {number: 50051}}}]
`
}

// grpcCalls is what testdata/grpc says of its calls.
func grpcCalls(t *testing.T, c *world.Cmd) map[string]string {
	t.Helper()
	e, out := finish(t, c), map[string]string{}
	if err := json.Unmarshal([]byte(e.stdout), &out); err != nil {
		t.Fatalf("%v: %v: %q %s", c.Args, err, e.stdout, e.stderr)
	}
	return out
}

// TestGRPC: grpc-go's client and server, with the daemon between: out in plain text, in
// TLS that is theirs, in TLS that egressd adds, and in through a Gateway, in plain text
// and TLS. What is denied is PERMISSION_DENIED, and no request leaves.
func TestGRPC(t *testing.T) {
	t.Parallel()
	client, err := testenv.Build(t.TempDir(), "grpc", "./testdata/grpc")
	if err != nil {
		t.Fatal(err)
	}
	four, six := netip.MustParseAddr("198.51.100.61"), netip.MustParseAddr("2001:db8:61::1")
	n := prepare(t, map[string]string{}, func(w *world.World) {
		if err := w.AddName("grpc.example", four, six); err != nil {
			t.Fatal(err)
		}
	}, "--gateway-selector", "istio=ingressgateway", "--credentials-dir", "{dir}/keys")
	certs := n.newIssuer(t, filepath.Join(n.Dir(), "keys"))
	certs.issue(t, "grpc", "grpc.example", "2")
	theirs, err := credentials.NewServerTLSFromFile(certs.file("grpc.crt"), certs.file("grpc.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{four, six} {
		n.serveGRPC(t, netip.AddrPortFrom(a, 50051))
		n.serveGRPC(t, netip.AddrPortFrom(a, 443), grpc.Creds(theirs))
	}
	n.write(t, "grpc.yaml", grpcPolicy(certs))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, "grpc.example")
	ca := certs.file("ca.crt")
	for network, node := range map[string]string{"tcp4": world.NodeV4, "tcp6": world.NodeV6} {
		for name, c := range map[string]*world.Cmd{
			"uncaptured":         n.client(t, nil, client, network, "grpc.example:50051", "grpc.example"),
			"plain text":         n.client(t, n.in, client, network, "grpc.example:50051", "grpc.example"),
			"TLS of its own":     n.client(t, n.in, client, network, "grpc.example:443", "grpc.example", ca),
			"TLS that is added":  n.client(t, n.in, client, network, "grpc.example:80", "grpc.example"),
			"the Gateway":        n.Net.Command(t.Context(), nil, client, network, net.JoinHostPort(node, "80"), "grpc.example"),
			"the Gateway by TLS": n.Net.Command(t.Context(), nil, client, network, net.JoinHostPort(node, "443"), "grpc.example", ca),
		} {
			for call, got := range grpcCalls(t, c) {
				if got != "ok" {
					t.Errorf("%s, %s, %s: %s", network, name, call, got)
				}
			}
		}
		out := grpcCalls(t, n.client(t, n.in, client, network, "grpc.example:50051", "other.example"))
		for _, call := range []string{"unary", "big", "streams"} {
			if got := out[call]; len(got) < 16 || got[:16] != "PermissionDenied" {
				t.Errorf("%s, denied, %s: %s", network, call, got)
			}
		}
	}
	if e := n.event(t, "a denied call", func(e flow.Event) bool { return e.Kind == flow.Request && e.Name == "other.example" }); e.Reason != policy.ReasonName || e.Allowed {
		t.Errorf("%+v", e)
	}
}
