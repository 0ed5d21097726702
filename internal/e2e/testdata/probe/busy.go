// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// busyPause is between two attempts of one kind.
const busyPause = 2 * time.Millisecond

// busy asks a DNS server for a name over UDP and TCP, and requests http://HOST/ at
// each address, each time anew, until its input ends. It counts the attempts and those that went well; Text has
// the first failure of each kind.
func busy(r *result, server, name, host string, addrs []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	kinds := map[string]func() error{}
	for _, network := range []string{"udp", "tcp"} {
		kinds["dns/"+network] = func() error {
			m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
			reply, _, err := (&dns.Client{Net: network, Timeout: 4 * time.Second}).Exchange(m, server)
			if err == nil && len(reply.Answer) == 0 {
				err = fmt.Errorf("rcode %s", dns.RcodeToString[reply.Rcode])
			}
			return err
		}
	}
	for _, addr := range addrs {
		kinds[addr] = func() error { return request(host, addr) }
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for kind, attempt := range kinds {
		all.Go(func() {
			failed := 0
			for ; ctx.Err() == nil; time.Sleep(busyPause) {
				err := attempt()
				mu.Lock()
				r.Rounds++
				if err == nil {
					r.Good++
				} else if failed++; failed == 1 {
					r.Text += fmt.Sprintf("%s at %s: %v; ", kind, time.Now().Format("15:04:05.000"), err)
				}
				mu.Unlock()
			}
		})
	}
	fmt.Println("open")
	all.Wait()
	return nil
}

// request is one request on a new connection.
func request(host, addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/", nil)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
