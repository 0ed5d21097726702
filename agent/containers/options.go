// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/internal/containerapi"
	"github.com/egressd/egressd/internal/localsocket"
)

// ParseSockets reads which runtimes are asked, and where: "auto" for all that are known at
// their usual sockets, "none", or a list such as docker,podman=/run/p.sock.
func ParseSockets(text string) (map[container.Runtime]string, error) {
	switch text {
	case "none":
		return nil, nil
	case "auto":
		return maps.Clone(containerapi.DefaultSockets), nil
	}
	out := map[container.Runtime]string{}
	for item := range strings.SplitSeq(text, ",") {
		name, socket, given := strings.Cut(strings.TrimSpace(item), "=")
		r := container.Runtime(name)
		switch {
		case !slices.Contains(container.Runtimes, r):
			return nil, fmt.Errorf("%q is no container runtime; give auto, none, or docker, podman and containerd, as in docker,podman=/run/podman/podman.sock", name)
		case !given:
			socket = containerapi.DefaultSockets[r]
		case !filepath.IsAbs(socket):
			return nil, fmt.Errorf("%s: the socket %q is not an absolute path", name, socket)
		}
		if err := localsocket.CheckPath(socket); err != nil {
			return nil, fmt.Errorf("%s: %w; name a link to it that is shorter", name, err)
		}
		if _, twice := out[r]; twice {
			return nil, fmt.Errorf("%s is there twice", name)
		}
		out[r] = socket
	}
	return out, nil
}

// Clients makes a client for each runtime.
func Clients(sockets map[container.Runtime]string) map[container.Runtime]API {
	out := map[container.Runtime]API{}
	for r, socket := range sockets {
		out[r] = containerapi.New(r, socket)
	}
	return out
}
