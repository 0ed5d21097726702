// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"net"
	"os"
)

const (
	// floorName is the subject that is there only if -only names it.
	floorName = "floor"
	floorVerb = "floor-proxy"
)

// floor adds the least that a proxy in Go does: accept, a goroutine for each connection,
// one of its own to the origin, and reads and writes as they come. Nothing is parsed,
// decided, bounded or told.
func (b *bench) floor(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := b.proxy(ctx, floorName, "127.0.0.7", self, floorVerb, "127.0.0.7:80", originV4+":80"); err != nil {
		return err
	}
	b.subjects[len(b.subjects)-1].httpOnly = true
	return nil
}

// floorProxy is that proxy.
func floorProxy(listen, origin string) error {
	ln, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", listen)
	if err != nil {
		return err
	}
	to, err := net.ResolveTCPAddr("tcp", origin)
	if err != nil {
		return err
	}
	for {
		down, err := ln.Accept()
		if err != nil {
			return err
		}
		go passOn(down, to)
	}
}

// passOn passes on requests and answers that come in one piece, as those of the
// benchmark do. An error is the end of the connection, for which it is not told.
func passOn(down net.Conn, to *net.TCPAddr) {
	defer down.Close()
	buf := make([]byte, 4<<10)
	n, err := down.Read(buf)
	if err != nil {
		return
	}
	dialer := net.Dialer{KeepAlive: -1}
	dialer.SetMultipathTCP(false)
	up, err := dialer.Dial("tcp", to.String())
	if err != nil {
		return
	}
	defer up.Close()
	for err == nil {
		ends := bytes.Contains(buf[:n], []byte("Connection: close"))
		if _, err = up.Write(buf[:n]); err != nil {
			return
		}
		if n, err = up.Read(buf); err != nil {
			return
		}
		if _, err = down.Write(buf[:n]); err != nil || ends {
			return
		}
		n, err = down.Read(buf)
	}
}
