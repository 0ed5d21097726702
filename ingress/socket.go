// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/localsocket"
	"github.com/egressd/egressd/policy"
)

// served is the place as a server has it: of an address all is told but on which.
func (p place) served() string {
	if p.unix != "" {
		return p.String()
	}
	return fmt.Sprintf("port %d", p.at.Port())
}

// addressOf is where a listener listens, for people.
func addressOf(ln net.Listener) string {
	if ln.Addr().Network() == "unix" {
		return "unix:" + ln.Addr().String()
	}
	return ln.Addr().String()
}

// mayListen says whether a socket may be at a path. A Gateway is not always written by
// the operator of the node, and egressd, as root, would make and remove files wherever
// it says.
func (in *Ingress) mayListen(path string) error {
	dir := in.o.SocketDir
	if dir == "" {
		return errors.New("this node lets Gateways have no unix sockets; start egressd with --gateway-socket-dir and the directory that they may be in")
	}
	if rest, below := strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/"); !below || rest == "" || filepath.Clean(path) != path {
		return fmt.Errorf("it is not in %s, where --gateway-socket-dir lets Gateways have unix sockets", dir)
	}
	return nil
}

// openSocket listens at a path, by the socket that an earlier daemon left there if there
// is one. in.mu is held.
func (in *Ingress) openSocket(p place) error {
	if err := in.mayListen(p.unix); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := in.socketAt(ctx, p.unix)
	if err != nil {
		cancel()
		return err
	}
	in.sockets[p.unix] = s
	in.serve(ctx, cancel, p, s.UnixListener)
	return nil
}

func (in *Ingress) socketAt(ctx context.Context, path string) (*localsocket.LocalListener, error) {
	if in.o.InheritedUnix != nil {
		if u := in.o.InheritedUnix(path); u != nil {
			s, err := localsocket.Adopt(u, path)
			if err == nil {
				return s, nil
			}
			in.o.Log.Warn("the socket of the egressd before cannot be reached any more; egressd makes another one", "socket", path, "error", err)
			u.Close()
		}
	}
	return localsocket.Listen(ctx, path)
}

// remove removes the file of a socket that nobody listens at any more. in.mu is held.
func (in *Ingress) remove(path string) {
	s := in.sockets[path]
	if s == nil {
		return
	}
	delete(in.sockets, path)
	if err := s.Remove(); err != nil {
		in.o.Log.Warn("the file of a unix socket is left behind; nobody listens there, and the next start replaces it", "socket", path, "error", err)
	}
}

// RemoveSockets removes the files of unix sockets, when nobody goes on with them: not
// another daemon, and no service manager that keeps them for the next start.
func (in *Ingress) RemoveSockets() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for path := range in.sockets {
		in.remove(path)
	}
}

// identifyAt describes a connection of a unix socket. Its peer has no address, and the
// kernel's word for which process it is counts for nothing: what a user may do at a
// gateway is for AuthorizationPolicies to say, which know no users.
func (in *Ingress) identifyAt(path string) forward.Conn {
	out := forward.Conn{Socket: path, Layer: flow.Ingress, Workload: "gateway", Policy: policy.DefaultPolicy}
	in.placed(&out)
	return out
}
