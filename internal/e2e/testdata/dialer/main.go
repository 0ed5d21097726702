// SPDX-License-Identifier: Apache-2.0

// Command dialer is what runs in a container of a test: it dials an address until that
// works, at most so many times, and says how the first and the last time went.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	tries, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	var first, last string
	for i := range tries {
		last = dial(os.Args[1])
		if i == 0 {
			first = last
		}
		if last == "open" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("first %s last %s\n", first, last)
}

func dial(addr string) string {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	switch {
	case err == nil:
		_ = conn.Close()
		return "open"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	}
	return strconv.Quote(err.Error())
}
