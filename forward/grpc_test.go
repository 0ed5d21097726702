// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	gstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// speaker is a gRPC service: each method is a stream of bytes either way.
type speaker struct {
	// unary answers the method Unary; nil: with what it got.
	unary func(ctx context.Context, in []byte) ([]byte, error)
	calls atomic.Int64
}

func (s *speaker) answer(ctx context.Context, in []byte) ([]byte, error) {
	s.calls.Add(1)
	if s.unary != nil {
		return s.unary(ctx, in)
	}
	return in, nil
}

func unary(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := new(wrapperspb.BytesValue)
	if err := decode(in); err != nil {
		return nil, err
	}
	out, err := srv.(*speaker).answer(ctx, in.Value)
	return wrapperspb.Bytes(out), err
}

// down answers one message with as many as it has bytes, each as long as it.
func down(_ any, s grpc.ServerStream) error {
	in := new(wrapperspb.BytesValue)
	if err := s.RecvMsg(in); err != nil {
		return err
	}
	for range in.Value {
		if err := s.SendMsg(in); err != nil {
			return err
		}
	}
	return nil
}

// up answers all messages with all that they had.
func up(_ any, s grpc.ServerStream) error {
	var all []byte
	for {
		in := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
			return s.SendMsg(wrapperspb.Bytes(all))
		} else if err != nil {
			return err
		}
		all = append(all, in.Value...)
	}
}

// both answers each message at once; one that is empty with an error.
func both(_ any, s grpc.ServerStream) error {
	for {
		in := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(in.Value) == 0 {
			s.SetTrailer(metadata.Pairs("x-why", "empty"))
			return gstatus.Error(codes.OutOfRange, "nothing to say: \u00e4")
		}
		if err := s.SendMsg(in); err != nil {
			return err
		}
	}
}

var speakerService = grpc.ServiceDesc{
	ServiceName: "test.Speaker", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: unary}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Down", Handler: down, ServerStreams: true},
		{StreamName: "Up", Handler: up, ClientStreams: true},
		{StreamName: "Both", Handler: both, ServerStreams: true, ClientStreams: true},
	},
}

// grpcOrigin serves the host with grpc-go until the test ends, or stop is called.
func (r *rig) grpcOrigin(host, at string, s *speaker, options ...grpc.ServerOption) (stop func()) {
	r.t.Helper()
	g := grpc.NewServer(append(options, grpc.MaxRecvMsgSize(64<<20))...)
	g.RegisterService(&speakerService, s)
	ln := listen(r.t, at)
	r.at(host, ln.Addr())
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	stop = sync.OnceFunc(func() { g.Stop(); <-done })
	r.t.Cleanup(stop)
	return stop
}

// grpcClient is a client of grpc-go, whose name for the server is a.example.
func (r *rig) grpcClient() *grpc.ClientConn {
	r.t.Helper()
	addr := r.addr()
	c, err := grpc.NewClient("passthrough:///a.example", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)), grpc.WithNoProxy())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// callUnary makes one call.
func callUnary(ctx context.Context, c *grpc.ClientConn, in []byte, options ...grpc.CallOption) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out := new(wrapperspb.BytesValue)
	err := c.Invoke(ctx, "/test.Speaker/Unary", wrapperspb.Bytes(in), out, options...)
	return out.Value, err
}

// grpcUpstream has requests go upstream as gRPC.
func (r *rig) grpcUpstream() {
	r.http = func(req *policy.Request) policy.HTTPDecision {
		u := upstreamOf(req.Host)
		u.Protocol = policy.ProtocolGRPC
		return policy.HTTPDecision{Decision: allowed, Upstream: u}
	}
}

// TestGRPCStreams: all kinds of calls, small and big, by IPv4 and IPv6, as they are
// without egressd between.
func TestGRPCStreams(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		r := newRig(t, HTTP)
		r.grpcUpstream()
		r.grpcOrigin("a.example", at, &speaker{})
		c := r.grpcClient()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, size := range []int{0, 1, 100 << 10, 12 << 20} {
			in := bytes.Repeat([]byte("x"), size)
			var trailer metadata.MD
			if out, err := callUnary(ctx, c, in, grpc.Trailer(&trailer)); err != nil || !bytes.Equal(out, in) {
				t.Errorf("%s: %d bytes came back as %d, %v", at, size, len(out), err)
			}
		}
		n, err := streamDown(ctx, c, 3000)
		if err != nil || n != 3000*3000 {
			t.Errorf("%s: down: %d bytes, %v", at, n, err)
		}
		s, err := c.NewStream(ctx, &speakerService.Streams[1], "/test.Speaker/Up")
		for i := 0; err == nil && i < 300; i++ {
			err = s.SendMsg(wrapperspb.Bytes(bytes.Repeat([]byte("y"), 3000)))
		}
		all := new(wrapperspb.BytesValue)
		if err == nil {
			err = errors.Join(s.CloseSend(), s.RecvMsg(all))
		}
		if err != nil || len(all.Value) != 300*3000 {
			t.Errorf("%s: up: %d bytes, %v", at, len(all.Value), err)
		}
		converse(t, ctx, c)
	}
}

// streamDown reads as many messages as it asks for.
func streamDown(ctx context.Context, c *grpc.ClientConn, size int) (n int, err error) {
	s, err := c.NewStream(ctx, &speakerService.Streams[0], "/test.Speaker/Down")
	if err == nil {
		err = errors.Join(s.SendMsg(wrapperspb.Bytes(make([]byte, size))), s.CloseSend())
	}
	for err == nil {
		out := new(wrapperspb.BytesValue)
		if err = s.RecvMsg(out); err == nil {
			n += len(out.Value)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// converse has messages answered one by one, and ends with an error in trailers.
func converse(t *testing.T, ctx context.Context, c *grpc.ClientConn) {
	t.Helper()
	s, err := c.NewStream(ctx, &speakerService.Streams[2], "/test.Speaker/Both")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		in, out := wrapperspb.Bytes([]byte(fmt.Sprint("message ", i))), new(wrapperspb.BytesValue)
		if err := errors.Join(s.SendMsg(in), s.RecvMsg(out)); err != nil || !bytes.Equal(in.Value, out.Value) {
			t.Fatalf("message %d: %q, %v", i, out.Value, err)
		}
	}
	if err := s.SendMsg(wrapperspb.Bytes(nil)); err != nil {
		t.Fatal(err)
	}
	st := gstatus.Convert(s.RecvMsg(new(wrapperspb.BytesValue)))
	if st.Code() != codes.OutOfRange || st.Message() != "nothing to say: \u00e4" || s.Trailer().Get("x-why") == nil {
		t.Errorf("the end: %v, trailer %v", st, s.Trailer())
	}
}

// TestGRPCStatuses: statuses with their words and metadata, deadlines on both sides,
// cancelling.
func TestGRPCStatuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, HTTP)
	r.grpcUpstream()
	ended := make(chan error, 1)
	left := make(chan time.Duration, 1)
	s := &speaker{unary: func(ctx context.Context, in []byte) ([]byte, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		switch string(in) {
		case "fail":
			_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trail-bin", string([]byte{0, 1, 255})))
			return nil, gstatus.Error(codes.FailedPrecondition, "not like this: 100% \u00fc")
		case "meta":
			_ = grpc.SetHeader(ctx, metadata.Pairs("x-back", md.Get("x-there-bin")[0]))
			return nil, nil
		}
		deadline, ok := ctx.Deadline()
		if !ok {
			return nil, gstatus.Error(codes.Internal, "no deadline came")
		}
		left <- time.Until(deadline)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}
	r.grpcOrigin("a.example", "127.0.0.1:0", s)
	c := r.grpcClient()
	var header, trailer metadata.MD
	_, err := callUnary(t.Context(), c, []byte("fail"), grpc.Trailer(&trailer))
	if st := gstatus.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != "not like this: 100% \u00fc" || trailer.Get("x-trail-bin")[0] != "\x00\x01\xff" {
		t.Errorf("%v, trailer %v", st, trailer)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-there-bin", "plain")
	if _, err := callUnary(ctx, c, []byte("meta"), grpc.Header(&header)); err != nil || header.Get("x-back")[0] != "plain" {
		t.Errorf("%v, header %v", err, header)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	if _, err := callUnary(ctx, c, []byte("wait")); gstatus.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	cancel()
	if d := receive(t, left); d <= 0 || d > 300*time.Millisecond {
		t.Errorf("the server was told of %v", d)
	}
	receive(t, ended)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { <-left; cancel() }()
	if _, err := callUnary(ctx, c, []byte("wait")); gstatus.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	if err := receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("the server has not heard of it: %v", err)
	}
}

// TestGRPCServersGo: a server that ends its connections all the time, as one with
// MAX_CONNECTION_AGE does, costs no call. One that is gone is UNAVAILABLE, and calls go
// on when it is back.
func TestGRPCServersGo(t *testing.T) {
	t.Parallel()
	r := newRig(t, HTTP)
	r.grpcUpstream()
	s := &speaker{}
	stop := r.grpcOrigin("a.example", "127.0.0.1:0", s, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 30 * time.Millisecond}))
	c := r.grpcClient()
	var wg sync.WaitGroup
	for id := range 8 {
		wg.Go(func() {
			for i := range 60 {
				in := []byte(fmt.Sprint(id, "-", i))
				if out, err := callUnary(t.Context(), c, in); err != nil || !bytes.Equal(in, out) {
					t.Errorf("%s: %q, %v", in, out, err)
					return
				}
				if _, err := streamDown(t.Context(), c, 20); err != nil {
					t.Errorf("%s, down: %v", in, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := r.dialCount("a.example"); n < 2 {
		t.Errorf("%d connections: nothing was ended", n)
	}
	stop()
	if _, err := callUnary(t.Context(), c, nil); gstatus.Code(err) != codes.Unavailable {
		t.Errorf("without a server: %v", err)
	}
	r.grpcOrigin("a.example", "127.0.0.1:0", s)
	if _, err := callUnary(t.Context(), c, nil); err != nil {
		t.Errorf("with one again: %v", err)
	}
}

// TestGRPCRetries: a rule's conditions about statuses count for real servers, whose
// errors are trailers alone. What has begun to answer is not asked again.
func TestGRPCRetries(t *testing.T) {
	t.Parallel()
	for on, code := range map[string]codes.Code{
		"unavailable": codes.Unavailable, "cancelled": codes.Canceled, "deadline-exceeded": codes.DeadlineExceeded,
		"resource-exhausted": codes.ResourceExhausted, "internal": codes.Internal,
	} {
		for _, begun := range []bool{false, true} {
			r := newRig(t, HTTP)
			s := &speaker{}
			s.unary = func(ctx context.Context, in []byte) ([]byte, error) {
				if s.calls.Load() == 1 {
					if begun {
						_ = grpc.SendHeader(ctx, nil)
					}
					return nil, gstatus.Error(code, "once")
				}
				return in, nil
			}
			r.grpcOrigin("a.example", "127.0.0.1:0", s)
			a := routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, On: []string{on}, Backoff: time.Millisecond}}, "a.example")
			a.Destinations[0].Upstream.Protocol = policy.ProtocolGRPC
			r.rule(a)
			out, err := callUnary(t.Context(), r.grpcClient(), []byte("hi"))
			if want := map[bool]codes.Code{false: codes.OK, true: code}[begun]; gstatus.Code(err) != want || !begun && string(out) != "hi" {
				t.Errorf("%s, begun %v: %q, %v; %d calls", on, begun, out, err, s.calls.Load())
			}
		}
	}
}

// TestGRPCDenied: a denial is PERMISSION_DENIED, which clients do not try again, and
// reaches no server.
func TestGRPCDenied(t *testing.T) {
	t.Parallel()
	for _, reason := range []policy.Reason{policy.ReasonName, policy.ReasonAuthorization} {
		r := newRig(t, HTTP)
		s := &speaker{}
		r.grpcOrigin("a.example", "127.0.0.1:0", s)
		r.http = func(*policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: denied(reason, nil)}
		}
		c := r.grpcClient()
		for range 2 { // on the same connection
			if _, err := callUnary(t.Context(), c, []byte("hi")); gstatus.Code(err) != codes.PermissionDenied {
				t.Errorf("%s: %v", reason, err)
			}
		}
		if _, err := streamDown(t.Context(), c, 3); gstatus.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", reason, err)
		}
		if e := r.sink.wait(t, flow.Request, 3); e.Reason != reason || e.Allowed || s.calls.Load() != 0 {
			t.Errorf("%+v, %d calls", e, s.calls.Load())
		}
	}
}
