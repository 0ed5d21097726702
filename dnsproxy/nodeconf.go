// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// NodeFiles are where a node names its servers. The second has the servers
// behind systemd-resolved's stub: resolved itself is captured, and what it
// asks must reach the server that it addressed, not itself again.
var NodeFiles = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// Bounds of resolv.conf(5): RES_MAXRETRANS and RES_MAXRETRY.
const (
	maxTimeout  = 30 * time.Second
	maxAttempts = 5
)

// ReadNode reads the node's DNS servers, search domains and options
// (resolv.conf(5)) from files. Timeout and Attempts are 0 where the files say
// nothing of them. A file that is not there says nothing; the error is about
// those that cannot be read, and what the others say is returned as well.
func ReadNode(files []string) (Upstreams, error) {
	var u Upstreams
	var errs []error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = u.add(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
		}
	}
	return u, errors.Join(errs...)
}

// add adds what a resolv.conf says.
func (u *Upstreams) add(text []byte) error {
	c, err := dns.ClientConfigFromReader(bytes.NewReader(text))
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(c.Port, 10, 16)
	if err != nil {
		return err
	}
	for _, s := range c.Servers {
		a, err := netip.ParseAddr(s)
		if err != nil {
			continue // as libc does
		}
		if ap := netip.AddrPortFrom(a.Unmap(), uint16(port)); !slices.Contains(u.Servers, ap) {
			u.Servers = append(u.Servers, ap)
		}
	}
	for _, s := range c.Search {
		if !slices.Contains(u.Search, s) {
			u.Search = append(u.Search, s)
		}
	}
	timeout, attempts := readOptions(string(text))
	if u.Timeout == 0 {
		u.Timeout = timeout
	}
	if u.Attempts == 0 {
		u.Attempts = attempts
	}
	return nil
}

// readOptions returns the options timeout and attempts of a resolv.conf, 0 for
// one that it does not have.
func readOptions(text string) (timeout time.Duration, attempts int) {
	number := func(s string, most int) int {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return 0
		}
		return min(n, most)
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "options" {
			continue
		}
		for _, f := range fields[1:] {
			switch name, value, _ := strings.Cut(f, ":"); name {
			case "timeout":
				timeout = time.Duration(number(value, int(maxTimeout/time.Second))) * time.Second
			case "attempts":
				attempts = number(value, maxAttempts)
			}
		}
	}
	return timeout, attempts
}

// ReadSearch reads the search suffixes of a resolv.conf.
func ReadSearch(r io.Reader) ([]string, error) {
	c, err := dns.ClientConfigFromReader(r)
	if err != nil {
		return nil, err
	}
	return c.Search, nil
}
