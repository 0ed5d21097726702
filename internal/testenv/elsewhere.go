// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
)

// elsewhere in the environment makes a test's program a server; see Elsewhere.
const elsewhere = "TESTENV_ELSEWHERE"

// Elsewhere starts another process that listens on a unix socket and sends
// back what it gets, until the test ends. The package's TestMain must call Main.
func Elsewhere(t testing.TB, socket string) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), elsewhere+"="+socket)
	stop, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop.Close()
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the other process: %q, %v", line, err)
	}
}

// serveElsewhere is the other process. It ends with its standard input.
func serveElsewhere(socket string) int {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return 1
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	os.Stdout.WriteString("ready\n")
	io.Copy(io.Discard, os.Stdin)
	ln.Close()
	return 0
}
