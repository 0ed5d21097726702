// SPDX-License-Identifier: Apache-2.0

package originate

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/egressd/egressd/policy"
)

// maxAnswer is how long a proxy's answer to CONNECT may be, in bytes.
const maxAnswer = 16 << 10

// connect asks the proxy at nc for a tunnel (RFC 9110, 9.3.6). Its answer is read byte
// by byte: what follows it is the tunnel's.
func connect(nc net.Conn, t *policy.Tunnel) (net.Conn, error) {
	to := net.JoinHostPort(t.TargetHost, strconv.Itoa(int(t.TargetPort)))
	if _, err := fmt.Fprintf(nc, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to); err != nil {
		return nil, &TransportError{policy.ReasonTunnel, "CONNECT " + to, err}
	}
	for {
		head, err := readHead(nc)
		if err != nil {
			return nil, &TransportError{policy.ReasonTunnel, "CONNECT " + to, err}
		}
		line, _, _ := strings.Cut(head, "\r\n")
		status, err := statusOf(line)
		switch {
		case err != nil:
			return nil, &TransportError{policy.ReasonTunnel, "CONNECT " + to, err}
		case status >= 100 && status < 200 && status != http.StatusSwitchingProtocols:
			continue
		case status < 200 || status > 299:
			return nil, &TransportError{policy.ReasonTunnel, fmt.Sprintf("the proxy answers CONNECT %s with status %d", to, status), nil}
		}
		return nc, nil
	}
}

// readHead reads to the end of a head.
func readHead(nc net.Conn) (string, error) {
	var b []byte
	var one [1]byte
	for len(b) < maxAnswer {
		n, err := nc.Read(one[:])
		if n == 1 {
			if b = append(b, one[0]); one[0] == '\n' && strings.HasSuffix(string(b), "\r\n\r\n") {
				return string(b), nil
			}
		}
		if err != nil {
			return "", err
		}
	}
	return "", errors.New("the proxy's answer is too long")
}

func statusOf(line string) (int, error) {
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if !strings.HasPrefix(version, "HTTP/1.") || err != nil || len(code) != 3 {
		return 0, errors.New("the proxy's answer is not HTTP/1")
	}
	return status, nil
}
