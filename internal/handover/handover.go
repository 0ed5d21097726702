// SPDX-License-Identifier: Apache-2.0

// Package handover carries what one egressd hands to the next: descriptors of
// sockets and locks, and the messages by which two processes agree who serves.
// It knows nothing of what the messages are about.
//
// The protocol is JSON in one packet for each message, over a unix socket of
// type SOCK_SEQPACKET, which keeps packets apart; descriptors come with them
// (unix(7) SCM_RIGHTS). The first message of each side names the protocol's
// version.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the takeover socket's name in the state directory.
const SocketName = "takeover.sock"

// Protocol is the version of the messages. A side that hears another one ends
// the connection.
const Protocol = 1

const (
	// maxMessage bounds one message, in bytes.
	maxMessage = 64 << 10
	// maxFiles is how many descriptors come with one message (SCM_MAX_FD is 253).
	maxFiles = 128
)

// MessageKind says what a message is.
type MessageKind string

// The kinds, in the order in which they are sent.
const (
	Hello     MessageKind = "hello"     // the heir: who I am
	Offer     MessageKind = "offer"     // the holder: my descriptors; More says that others follow
	Quiesce   MessageKind = "quiesce"   // the heir: I am prepared, stop
	Quiet     MessageKind = "quiet"     // the holder: I accept, read and write nothing any more
	Done      MessageKind = "done"      // the heir: my programs are in force
	Released  MessageKind = "released"  // the holder: it is all yours
	Withdrawn MessageKind = "withdrawn" // the holder: no, I go on; Error says why
	Learn     MessageKind = "learn"     // the holder: an answer that I am about to give
	Learned   MessageKind = "learned"   // the heir: it is open; Error says that it is not
)

// Message is what one side tells the other.
type Message struct {
	Kind     MessageKind `json:"kind"`
	Protocol int         `json:"protocol,omitempty"`
	Version  string      `json:"version,omitempty"` // of egressd, for people
	// Names are those of the descriptors that come with it.
	Names []string `json:"names,omitempty"`
	More  bool     `json:"more,omitempty"`
	// Cgroup is the id of the sender's own cgroup, if that is not under policy.
	Cgroup uint64         `json:"cgroup,omitempty"`
	Answer *LearnedAnswer `json:"answer,omitempty"`
	Error  string         `json:"error,omitempty"`
}

// LearnedAnswer is a DNS answer whose addresses are to be learned.
type LearnedAnswer struct {
	Workload string    `json:"workload"`
	Name     string    `json:"name"`
	Addrs    []Address `json:"addrs"`
}

// Address is one of an Answer.
type Address struct {
	Addr netip.Addr    `json:"addr"`
	TTL  time.Duration `json:"ttl"`
}

// Channel is the connection between two egressd. Each of sending and receiving is
// for one goroutine at a time.
type Channel struct {
	c   *net.UnixConn
	ask sync.Mutex
	// peer is the other end's process, nil: it is in another pid namespace.
	peer *os.File
}

// Waiter waits for an heir.
type Waiter struct{ ln *net.UnixListener }

// Listen opens the socket at path, for root alone. The caller holds the lock of
// the directory, so that whatever is there is of nobody who lives.
func Listen(path string) (*Waiter, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return &Waiter{ln}, nil
}

// Accept returns the next connection. An error of which ErrPeer is the cause
// is of this one alone.
func (l *Waiter) Accept() (*Channel, error) {
	c, err := l.ln.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return checked(c)
}

// Addr is the path.
func (l *Waiter) Addr() string { return l.ln.Addr().String() }

// Close removes the socket. Connections that were accepted stay.
func (l *Waiter) Close() error { return l.ln.Close() }

// Dial connects to the egressd that listens at path.
func Dial(path string) (*Channel, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	return checked(c)
}

// ErrPeer says that the other end is a process of another user.
var ErrPeer = errors.New("the other end is neither root nor this user")

// checked lets nobody else's process be the other end, whatever the modes of
// the socket and the directories have become.
func checked(c *net.UnixConn) (*Channel, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	var peer *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, cerr); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return nil, errors.Join(fmt.Errorf("uid %d: %w", peer.Uid, ErrPeer), c.Close())
	}
	conn := &Channel{c: c}
	if fd, err := unix.PidfdOpen(int(peer.Pid), 0); err == nil {
		conn.peer = os.NewFile(uintptr(fd), "pidfd")
	}
	return conn, nil
}

// Close ends the connection; the other end reads io.EOF.
func (c *Channel) Close() error {
	if c.peer != nil {
		_ = c.peer.Close() // of a process, or closed before
	}
	return c.c.Close()
}

// Kill ends the process at the other end, which hangs.
func (c *Channel) Kill() error {
	if c.peer == nil {
		return errors.New("the other end's process is not known")
	}
	return unix.PidfdSendSignal(int(c.peer.Fd()), unix.SIGKILL, nil, 0)
}

// SetDeadline bounds what follows; the zero time does not.
func (c *Channel) SetDeadline(t time.Time) { _ = c.c.SetDeadline(t) } // of a closed one: the next call says so

// Send sends a message, with all descriptors of s, in several messages if need
// be. s may be nil.
func (c *Channel) Send(m Message, s *SocketSet) error {
	all := s.all()
	for first := true; first || len(all) > 0; first = false {
		now := all[:min(len(all), maxFiles)]
		all = all[len(now):]
		m.Names, m.More = nil, len(all) > 0
		fds := make([]int, len(now))
		for i, d := range now {
			m.Names = append(m.Names, d.name)
			fds[i] = d.fd
		}
		data, err := json.Marshal(m)
		if err != nil {
			return err
		}
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		if _, _, err := c.c.WriteMsgUnix(data, rights, nil); err != nil {
			return fmt.Errorf("send %s: %w", m.Kind, err)
		}
	}
	return nil
}

// Receive returns the next message and what came with it, which the caller must
// close. It is io.EOF when the other end is gone.
func (c *Channel) Receive() (Message, *SocketSet, error) {
	var m Message
	set := &SocketSet{}
	data, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFiles))
	for {
		n, rn, flags, _, err := c.c.ReadMsgUnix(data, rights)
		if err == nil && n == 0 {
			err = io.EOF
		}
		fds, rerr := received(rights[:rn])
		m = Message{}
		if err == nil {
			err = errors.Join(rerr, json.Unmarshal(data[:n], &m))
		}
		if err == nil && (flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(m.Names) != len(fds)) {
			err = errors.New("a message came incomplete (this process may have too few descriptors left)")
		}
		for i, fd := range fds {
			name := ""
			if i < len(m.Names) {
				name = m.Names[i]
			}
			set.descriptors = append(set.descriptors, descriptor{name, fd})
		}
		if err != nil {
			set.Close()
			return Message{}, nil, err
		}
		if !m.More {
			return m, set, nil
		}
	}
}

// Ask sends a message without descriptors and returns the answer to it. It is
// safe for concurrent use.
func (c *Channel) Ask(m Message, wait time.Duration) (Message, error) {
	c.ask.Lock()
	defer c.ask.Unlock()
	c.SetDeadline(time.Now().Add(wait))
	defer c.SetDeadline(time.Time{})
	if err := c.Send(m, nil); err != nil {
		return Message{}, err
	}
	answer, set, err := c.Receive()
	set.Close()
	return answer, err
}

// Expect receives a message of one kind. Withdrawn is an error with its reason.
func (c *Channel) Expect(k MessageKind) (Message, *SocketSet, error) {
	m, set, err := c.Receive()
	if err != nil {
		return m, nil, err
	}
	switch {
	case m.Kind == k && (k != Hello && k != Offer || m.Protocol == Protocol):
		return m, set, nil
	case m.Kind == Withdrawn:
		err = fmt.Errorf("%w: %s", ErrWithdrawn, m.Error)
	case m.Kind == k:
		err = fmt.Errorf("the other egressd (%s) speaks version %d of the takeover protocol, and this one %d: end that one first", m.Version, m.Protocol, Protocol)
	default:
		err = fmt.Errorf("the other egressd says %q where %q is expected", m.Kind, k)
	}
	set.Close()
	return m, nil, err
}

// ErrWithdrawn says that the holder goes on and hands nothing over.
var ErrWithdrawn = errors.New("the egressd that runs goes on")

// received reads the descriptors of control messages.
func received(b []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // of another kind
		}
		for _, fd := range more {
			unix.CloseOnExec(fd)
		}
		fds = append(fds, more...)
	}
	return fds, nil
}
