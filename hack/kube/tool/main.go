// SPDX-License-Identifier: Apache-2.0

// Command tool is all that the pods of a test node run: one static program in
// an image of its own, without a shell.
//
//	tool pause                       does nothing, and reaps (the sandbox of a pod)
//	tool serve ADDRESS               an HTTP server that says the host's name
//	tool get [-close] URL            prints an answer's status and its body
//	tool connect tcp|udp ADDRESS     connects (udp: asks for an echo), and says so
//	tool knock [-for D] ADDRESS...   connects without a pause; counts who answered
//	tool load [-for D] [-known] URL  requests without a pause; counts those that failed
//	tool lookup NAME                 prints the addresses of a name, as the pod's resolver has them
//	tool dns ADDRESS                 the cluster's DNS server
//
// It exits with 1 when what it was asked to do did not work, and says why.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	// attemptWait bounds one attempt to connect, or one request.
	attemptWait = 5 * time.Second
	// forever is longer than any test.
	forever = 24 * time.Hour
)

// verbs are what the program does, by name. They end with the context.
var verbs = map[string]func(ctx context.Context, args []string) error{
	"pause":   pause,
	"serve":   serve,
	"get":     get,
	"connect": connect,
	"knock":   knock,
	"load":    load,
	"lookup":  lookup,
	"dns":     clusterDNS,
}

var errUsage = errors.New("usage: tool pause|serve|get|connect|knock|load|lookup|dns [ARGUMENT...]")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := errUsage
	if len(os.Args) > 1 {
		if verb, ok := verbs[os.Args[1]]; ok {
			err = verb(ctx, os.Args[2:])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tool:", err)
		os.Exit(1)
	}
}

// pause waits, and reaps the processes that become its children.
func pause(ctx context.Context, _ []string) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-children:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

// connect connects once. What it prints has both ends of the connection.
func connect(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	ctx, cancel := context.WithTimeout(ctx, attemptWait)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, args[0], args[1])
	if err != nil {
		return err
	}
	defer conn.Close()
	if strings.HasPrefix(args[0], "udp") {
		if err := echo(ctx, conn); err != nil {
			return err
		}
	}
	fmt.Println("connected", conn.LocalAddr(), conn.RemoteAddr())
	return nil
}

// echo sends a packet and waits until it is back.
func echo(ctx context.Context, conn net.Conn) error {
	if at, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(at); err != nil {
			return err
		}
	}
	if _, err := conn.Write([]byte("echo")); err != nil {
		return err
	}
	buf := make([]byte, 16)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	if string(buf[:n]) != "echo" {
		return fmt.Errorf("the answer is %q", buf[:n])
	}
	return nil
}

// knock tries to connect to all addresses in turn, from its first instruction
// on, and prints "tried N, connected N", and the first and the last error.
func knock(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("knock", flag.ContinueOnError)
	duration := f.Duration("for", forever, "how long")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	var tried, connected int
	var first, last error
	for ctx.Err() == nil {
		for _, addr := range f.Args() {
			conn, err := (&net.Dialer{Timeout: attemptWait}).Dial("tcp", addr)
			tried++
			if err == nil {
				connected++
				conn.Close()
				continue
			}
			last = err
			if first == nil {
				first = err
			}
		}
	}
	fmt.Printf("tried %d, connected %d\nfirst error: %v\nlast error: %v\n", tried, connected, first, last)
	return nil
}

// lookup prints one address a line.
func lookup(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	ctx, cancel := context.WithTimeout(ctx, attemptWait)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, args[0])
	if err != nil {
		return err
	}
	for _, a := range addrs {
		fmt.Println(a)
	}
	return nil
}
