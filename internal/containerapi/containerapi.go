// SPDX-License-Identifier: Apache-2.0

// Package containerapi asks container runtimes what a container is: Docker and podman by
// Docker's API, containerd by its own, each on a unix socket of root's.
package containerapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/container"
)

// DefaultSockets are where the runtimes listen.
var DefaultSockets = map[container.Runtime]string{
	container.Docker:     "/run/docker.sock",
	container.Podman:     "/run/podman/podman.sock",
	container.Containerd: "/run/containerd/containerd.sock",
}

// ErrUnknown says that a runtime answers, and has no such container.
var ErrUnknown = errors.New("the runtime knows no container of this id")

const (
	// maxAnswer bounds an answer in bytes: labels and settings of one container.
	maxAnswer = 4 << 20
	// maxName bounds names, maxLabels the labels that are kept.
	maxName   = 1024
	maxLabels = 1024
)

// Inspector asks one runtime. It keeps no connection, so that a runtime may be restarted, or
// be started by being asked.
type Inspector struct {
	runtime container.Runtime
	socket  string
	ask     func(ctx context.Context, id string) (container.Description, error)
	list    func(ctx context.Context) ([]string, error)
}

// New makes an Inspector of the runtime that listens at a socket.
func New(runtime container.Runtime, socket string) *Inspector {
	if runtime == container.Containerd {
		c := newContainerd(socket)
		return &Inspector{runtime: runtime, socket: socket, ask: c.inspect, list: c.namespaces}
	}
	return &Inspector{runtime: runtime, socket: socket, ask: docker{socket}.inspect}
}

// Namespaces lists the namespaces in which the runtime has containers; of Docker and podman
// there are none. The error names the runtime and its socket.
func (c *Inspector) Namespaces(ctx context.Context) ([]string, error) {
	if c.list == nil {
		return nil, nil
	}
	list, err := c.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s at %s: %w", c.runtime, c.socket, err)
	}
	return list, nil
}

// Describe asks for a container by its whole id (container.Instance), until ctx ends. The error names the
// runtime and its socket; it is ErrUnknown where the runtime answers that there is none.
func (c *Inspector) Describe(ctx context.Context, id string) (container.Description, error) {
	d, err := c.ask(ctx, id)
	if err == nil {
		err = check(&d)
	}
	if err != nil {
		return container.Description{}, fmt.Errorf("%s at %s: %w", c.runtime, c.socket, err)
	}
	d.Runtime = c.runtime
	return d, nil
}

// check refuses what no runtime has.
func check(d *container.Description) error {
	if len(d.Labels) > maxLabels {
		return fmt.Errorf("the container has %d labels, more than %d", len(d.Labels), maxLabels)
	}
	for what, s := range map[string]string{"name": d.Name, "image": d.Image} {
		if len(s) > maxName || strings.ContainsFunc(s, unicode.IsControl) {
			return fmt.Errorf("the container's %s is too long or has control characters", what)
		}
	}
	return nil
}

// dial connects to a socket behind which a process of root is: who else answers could say
// anything.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err == nil {
		var who *unix.Ucred
		var inner error
		err = raw.Control(func(fd uintptr) { who, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		if err = errors.Join(err, inner); err == nil && who.Uid != 0 {
			err = fmt.Errorf("user %d listens there, and only root's runtime is believed", who.Uid)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// readAll reads an answer that is not too long.
func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(data) > maxAnswer {
		err = fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	return data, err
}
