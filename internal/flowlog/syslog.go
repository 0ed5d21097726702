// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
)

const (
	journalSocket = "/run/systemd/journal/socket" // systemd.io, "Native Journal Protocol"
	syslogSocket  = "/dev/log"
	// identifier is by whom lines are, in system logs.
	identifier = "egressd-flow"
	// socketWait is how long a system log may take for a line.
	socketWait = 5 * time.Second
)

// Severities of RFC 5424, section 6.2.1, and the facility of daemons.
const (
	severityWarning = 4
	severityNotice  = 5
	severityInfo    = 6
	facilityDaemon  = 3
)

// severity is how much attention an event asks for.
func severity(e *flow.Event) int {
	switch {
	case e.Kind == flow.Lost, !e.Allowed && e.Kind != flow.Close:
		return severityWarning
	case e.WouldDeny:
		return severityNotice
	}
	return severityInfo
}

// socket is a unix socket that is connected to when there is something to write, and
// anew after a failure: a system log may start later, or again.
type socket struct {
	path     string
	networks []string // tried in this order
	conn     net.Conn
	network  string // of conn
}

func (s *socket) write(text []byte) error {
	var err error
	for i := 0; s.conn == nil; i++ {
		if i == len(s.networks) {
			return err
		}
		s.network = s.networks[i]
		s.conn, err = net.DialTimeout(s.network, s.path, socketWait)
		if err != nil {
			s.conn = nil
		}
	}
	if s.network == "unix" {
		text = append(text, '\n') // the end of a message in a stream (RFC 6587, section 3.4.2)
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(socketWait))
	if _, err = s.conn.Write(text); err != nil {
		_ = s.close() // the error is the write's
	}
	return err
}

func (s *socket) close() error {
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}

// journal writes to systemd's journal: the line as the message, and what people look for
// in fields.
type journal struct{ to *socket }

func newJournal(path string) *journal {
	return &journal{&socket{path: path, networks: []string{"unixgram"}}}
}

func (j *journal) Write(line []byte) (int, error) {
	e, err := flowrecord.Parse(line)
	if err != nil {
		return 0, err
	}
	var b []byte
	for _, f := range [][2]string{
		{"MESSAGE", string(bytes.TrimSuffix(line, []byte("\n")))}, {"PRIORITY", strconv.Itoa(severity(&e))}, {"SYSLOG_IDENTIFIER", identifier},
		{"EGRESSD_KIND", string(e.Kind)}, {"EGRESSD_WORKLOAD", e.Workload}, {"EGRESSD_HOST", e.Name}, {"EGRESSD_VERDICT", e.Verdict.String()},
		{"EGRESSD_ALLOWED", strconv.FormatBool(e.Allowed)}, {"EGRESSD_REASON", string(e.Reason)}, {"EGRESSD_COMMAND", e.Process.Command},
	} {
		b = appendField(b, f[0], f[1])
	}
	return len(line), j.to.write(b)
}

// appendField appends a field as the journal has it. A value with a line's end has its
// length before it; there, nobody can forge another field.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, name...)
	if bytes.IndexByte([]byte(value), '\n') < 0 {
		return append(append(append(b, '='), value...), '\n')
	}
	b = binary.LittleEndian.AppendUint64(append(b, '\n'), uint64(len(value)))
	return append(append(b, value...), '\n')
}

func (j *journal) Close() error { return j.to.close() }

// syslog writes to a unix socket what syslog(3) of the C library writes, with the line as
// the message: "<PRIORITY>Jan _2 15:04:05 NAME[PID]: ", in local time. Whoever listens on
// /dev/log reads that alone. RFC 5424 is for the network: rsyslog and the journal would
// take its version for the name, and its header for a part of the message.
type syslog struct{ to *socket }

func newSyslog(path string) *syslog {
	return &syslog{&socket{path: path, networks: []string{"unixgram", "unix"}}}
}

func (s *syslog) Write(line []byte) (int, error) {
	e, err := flowrecord.Parse(line)
	if err != nil {
		return 0, err
	}
	b := fmt.Appendf(nil, "<%d>%s %s[%d]: ", facilityDaemon*8+severity(&e), e.Time.Local().Format(time.Stamp), identifier, os.Getpid())
	return len(line), s.to.write(append(b, bytes.TrimSuffix(line, []byte("\n"))...))
}

func (s *syslog) Close() error { return s.to.close() }
