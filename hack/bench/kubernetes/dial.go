// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dialVerb lets this program be a container's process.
	dialVerb = "dial"
	// dialPort is that of the ServiceEntries with addresses.
	dialPort = 5432
	// dialEvery is how often it tries: the precision of what is measured. Each try is a
	// denial, which the daemon tells of: with many more it would measure that.
	dialEvery = time.Millisecond
)

// dial reads addresses. For each it prints 0 once the kernel refuses it, and the time
// (Unix, nanoseconds) when it does not any more; that time alone if it never did.
func dial([]string) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		addr, err := netip.ParseAddr(in.Text())
		if err != nil {
			return err
		}
		for refused := false; ; time.Sleep(dialEvery) {
			is, err := refuses(addr)
			if err != nil {
				return err
			}
			if is && !refused {
				refused = true
				fmt.Println(0)
			}
			if !is {
				fmt.Println(time.Now().UnixNano())
				break
			}
		}
	}
	return in.Err()
}

// refuses says whether connect() is refused at once. Nobody answers otherwise.
func refuses(addr netip.Addr) (bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	switch err := unix.Connect(fd, &unix.SockaddrInet4{Port: dialPort, Addr: addr.As4()}); {
	case errors.Is(err, unix.ECONNREFUSED):
		return true, nil
	case errors.Is(err, unix.EINPROGRESS):
		return false, nil
	default:
		return false, fmt.Errorf("connect to %s: %w", addr, err)
	}
}
