// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// knock counts the rounds, and in Good the attempts to reach one of the others
// that went through. It ends with an error when the open address is refused.
func knock(r *result, open string, others []string) error {
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	fmt.Println("open")
	for ; !stop.Load(); r.Rounds++ {
		// A SYN may be lost where the server still has a connection of that port
		// (RFC 6191), and is sent again after a second.
		if err := try("tcp", open, 5*time.Second); err != nil {
			return fmt.Errorf("round %d: %w", r.Rounds, err)
		}
		for _, a := range others {
			for _, network := range []string{"tcp", "udp"} {
				if try(network, a, time.Second) == nil {
					r.Good++
				}
			}
		}
	}
	return nil
}

// try is one attempt; of UDP, sending counts.
func try(network, addr string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("knock"))
	return err
}
