// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// squatter has the daemon's ports, as anybody may who is not captured, and
// counts what comes in.
type squatter struct {
	open []io.Closer
	got  atomic.Int64
	wg   sync.WaitGroup
}

// take binds all ports (of 0.0.0.0 Go makes all addresses of both families), in the calling thread's network namespace.
func (s *squatter) take() error {
	var errs []error
	for _, at := range []string{"0.0.0.0:15001", "127.0.0.1:15053", "[::1]:15053", "127.0.0.1:15000", "[::]:15020", "127.0.0.1:15021", "[::1]:15021"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.open = append(s.open, ln)
		s.wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				if ln.Addr().(*net.TCPAddr).Port < 15020 {
					s.got.Add(1)
				}
				_ = c.Close()
			}
		})
	}
	for _, at := range []string{"127.0.0.1:15053", "[::1]:15053"} {
		pc, err := net.ListenPacket("udp", at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.open = append(s.open, pc)
		s.wg.Go(func() {
			for {
				if _, _, err := pc.ReadFrom(make([]byte, 512)); err != nil {
					return
				}
				s.got.Add(1)
			}
		})
	}
	return errors.Join(errs...)
}

func (s *squatter) close() {
	for _, c := range s.open {
		_ = c.Close()
	}
	s.wg.Wait()
	s.open = nil
}
