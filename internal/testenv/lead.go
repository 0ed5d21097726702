// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// Lead leads each connection that ln accepts to one that dial makes, until the test ends:
// between the machine and a network namespace, as ssh -L does. Where dial fails, who
// connects sees the end.
func Lead(t testing.TB, ln net.Listener, dial func(context.Context) (net.Conn, error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() { carry(ctx, c, dial) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = ln.Close() // nothing listens there any more, either way
		work.Wait()
	})
}

// carry carries one connection.
func carry(ctx context.Context, c net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer c.Close()
	up, err := dial(ctx)
	if err != nil {
		return
	}
	defer up.Close()
	defer context.AfterFunc(ctx, func() { c.Close(); up.Close() })()
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(c, up); c.Close() }) // it ends when either side does
	_, _ = io.Copy(up, c)
	up.Close()
	back.Wait()
}
