// SPDX-License-Identifier: Apache-2.0

// Package netns finds the network namespaces of processes and works inside
// them. What a namespace is called is its cookie: the number that the kernel
// programs see (SO_NETNS_COOKIE, kernel 5.14). It is never used again.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrGone says that no process was found in the namespace.
var ErrGone = errors.New("no process in the network namespace")

// Cookie is the cookie of the calling thread's network namespace.
func Cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read SO_NETNS_COOKIE: %w", err)
	}
	return cookie, nil
}

// In runs f in the namespace with the cookie, which it looks for at the
// processes: their number may be another one's by now, so the cookie decides.
// ErrGone when none of them is in it.
func In(cookie uint64, pids []int, f func() error) error {
	seen := map[string]bool{}
	for _, pid := range pids {
		found := false
		err := visit(pid, seen, func(c uint64) error {
			if found = c == cookie; found {
				return f()
			}
			return nil
		})
		if found {
			return err
		}
	}
	return ErrGone
}

// Each runs f in every other network namespace that the processes are in, once
// each. Processes that are gone are passed over; the errors of f are joined.
func Each(pids []int, f func(cookie uint64) error) error {
	seen := map[string]bool{}
	if own, err := os.Readlink("/proc/thread-self/ns/net"); err == nil {
		seen[own] = true
	}
	var errs []error
	for _, pid := range pids {
		if err := visit(pid, seen, f); err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// visit runs f in the namespace of a process, unless it was there before.
func visit(pid int, seen map[string]bool, f func(cookie uint64) error) error {
	path := filepath.Join("/proc", strconv.Itoa(pid), "ns/net")
	name, err := os.Readlink(path)
	if err != nil || seen[name] {
		return err
	}
	seen[name] = true
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return enter(ns, func() error {
		cookie, err := Cookie()
		if err != nil {
			return err
		}
		return f(cookie)
	})
}

// enter runs f on a thread of its own inside ns. A thread that cannot be put
// back ends with its goroutine instead of being given to others.
func enter(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		old, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer old.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter a network namespace: %w", err)
		} else {
			err = f()
		}
		if unix.Setns(int(old.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
