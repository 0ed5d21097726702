// SPDX-License-Identifier: Apache-2.0

// Package scheme knows the usual protocols by the schemes of their URLs and by their
// ports: where they are served, and what their clients send first.
package scheme

import "github.com/egressd/egressd/policy"

// Scheme is what the scheme of a URL stands for.
type Scheme struct {
	// Port is where the scheme is served; 0: there is no such port.
	Port     uint16
	Protocol policy.Protocol
}

// Of knows the schemes whose clients open a connection to the host in
// the URL. Protocols that begin in clear text, also those that change to TLS
// later (STARTTLS), are TCP: their first bytes are no ClientHello. The ports
// are those of IANA's registry or, where that has none, of the programs.
func Of(name string) (Scheme, bool) {
	switch name {
	case "http", "ws":
		return Scheme{80, policy.ProtocolHTTP}, true
	case "https", "wss":
		return Scheme{443, policy.ProtocolHTTPS}, true
	case "grpc":
		return Scheme{0, policy.ProtocolGRPC}, true
	case "grpcs":
		return Scheme{443, policy.ProtocolTLS}, true
	case "tcp":
		return Scheme{0, policy.ProtocolTCP}, true
	case "tls":
		return Scheme{0, policy.ProtocolTLS}, true
	case "udp":
		return Scheme{0, policy.ProtocolUDP}, true
	}
	opaque := map[string]uint16{
		"amqp": 5672, "cassandra": 9042, "ftp": 21, "git": 9418, "imap": 143, "irc": 6667, "kafka": 9092, "ldap": 389,
		"mariadb": 3306, "memcached": 11211, "mongodb": 27017, "mqtt": 1883, "mssql": 1433, "mysql": 3306, "nats": 4222, "oracle": 1521,
		"pop3": 110, "postgres": 5432, "postgresql": 5432, "rdp": 3389, "redis": 6379, "rsync": 873, "rtmp": 1935, "sftp": 22,
		"smtp": 25, "sqlserver": 1433, "ssh": 22, "svn": 3690, "telnet": 23, "valkey": 6379, "vnc": 5900, "xmpp": 5222,
	}
	if port, ok := opaque[name]; ok {
		return Scheme{port, policy.ProtocolTCP}, true
	}
	tls := map[string]uint16{
		"amqps": 5671, "ftps": 990, "imaps": 993, "ircs": 6697, "ldaps": 636, "mqtts": 8883, "pop3s": 995, "rediss": 6379, "smtps": 465, "valkeys": 6379,
	}
	if port, ok := tls[name]; ok {
		return Scheme{port, policy.ProtocolTLS}, true
	}
	return Scheme{}, false
}

// ProtocolOfPort is what is spoken on a port when nothing else tells: TCP
// unless the port is known for TLS or HTTP from the first byte on.
func ProtocolOfPort(port uint16) policy.Protocol {
	switch port {
	case 80, 8000, 8080:
		return policy.ProtocolHTTP
	case 443, 8443:
		return policy.ProtocolHTTPS
	case 465, 636, 853, 990, 993, 995, 5671, 6697, 8883:
		return policy.ProtocolTLS
	}
	return policy.ProtocolTCP
}
