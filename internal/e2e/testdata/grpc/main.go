// SPDX-License-Identifier: Apache-2.0

// Command grpc is a client of grpc-go for the end-to-end tests:
//
//	grpc NETWORK ADDR AUTHORITY [CAFILE]
//
// It makes calls of all kinds on one connection to ADDR, tcp4 or tcp6, with TLS when
// there is a CA, and prints how each ended as one JSON object.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// timeout bounds each call.
const timeout = 15 * time.Second

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: grpc NETWORK ADDR AUTHORITY [CAFILE]")
		os.Exit(2)
	}
	network, addr, authority := os.Args[1], os.Args[2], os.Args[3]
	creds := insecure.NewCredentials()
	if len(os.Args) > 4 {
		var err error
		if creds, err = credentials.NewClientTLSFromFile(os.Args[4], ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds), grpc.WithAuthority(authority), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer c.Close()
	out := map[string]string{}
	for name, call := range map[string]func(context.Context, *grpc.ClientConn) error{
		"unary": small, "big": big, "streams": streams, "error": fails, "deadline": waits,
	} {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		out[name] = "ok"
		if err := call(ctx, c); err != nil {
			out[name] = status.Code(err).String() + ": " + status.Convert(err).Message()
		}
		cancel()
	}
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

// ask has a call be answered with what it says.
func ask(ctx context.Context, c *grpc.ClientConn, text []byte) error {
	got := new(wrapperspb.BytesValue)
	if err := c.Invoke(ctx, "/test.Speaker/Unary", wrapperspb.Bytes(text), got); err != nil {
		return err
	}
	if !bytes.Equal(got.Value, text) {
		return fmt.Errorf("%d bytes came back as %d", len(text), len(got.Value))
	}
	return nil
}

func small(ctx context.Context, c *grpc.ClientConn) error { return ask(ctx, c, []byte("hello")) }

func big(ctx context.Context, c *grpc.ClientConn) error {
	return ask(ctx, c, bytes.Repeat([]byte("x"), 3<<20))
}

// streams speaks in both directions in turn.
func streams(ctx context.Context, c *grpc.ClientConn) error {
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Speaker/Both")
	if err != nil {
		return err
	}
	for i := range 20 {
		in, got := wrapperspb.Bytes([]byte(fmt.Sprint("message ", i))), new(wrapperspb.BytesValue)
		if err := s.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := s.RecvMsg(got); err != nil {
			return err
		}
		if !bytes.Equal(in.Value, got.Value) {
			return fmt.Errorf("message %d came back as %q", i, got.Value)
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the end: %w", err)
	}
	return nil
}

// fails has the server answer with an error; nil when it is that one.
func fails(ctx context.Context, c *grpc.ClientConn) error {
	err := ask(ctx, c, []byte("fail"))
	if status.Code(err) == codes.FailedPrecondition {
		return nil
	}
	return fmt.Errorf("not the server's error: %w", err)
}

// waits has the server wait for the client's deadline, which it is told of. When its
// clock is the faster one it resets the stream, which is UNAVAILABLE behind a proxy, as
// it is behind Envoy.
func waits(ctx context.Context, c *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	err := ask(ctx, c, []byte("wait"))
	if code := status.Code(err); code == codes.DeadlineExceeded || code == codes.Unavailable {
		return nil
	}
	return fmt.Errorf("not the deadline: %w", err)
}
