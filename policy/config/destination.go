// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"time"

	"github.com/egressd/egressd/internal/hostname"
)

// DestinationRule is what happens to connections on the way to a host, after
// it is known where they go (istio.io/api networking/v1alpha3).
type DestinationRule struct {
	Ref    Ref
	Host   hostname.Pattern
	Export Visibility
	// Selector limits it to workloads with these labels; nil: all.
	Selector map[string]string
	Traffic  *TrafficPolicy // nil: nothing is said
	Subsets  []Subset
}

// Subset is a named part of a host's endpoints.
type Subset struct {
	Name    string
	Labels  map[string]string
	Traffic *TrafficPolicy
}

// TrafficPolicy is Istio's TrafficPolicy. A nil part is not set.
type TrafficPolicy struct {
	LoadBalancer *LoadBalancer
	Pool         *ConnectionPool
	Outlier      *OutlierDetection
	TLS          *ClientTLS
	Tunnel       *Tunnel
	RetryBudget  *RetryBudget
	// ProxyProtocol is 0 (none), 1 or 2.
	ProxyProtocol int
	// Ports replace all of the above for a port; they inherit nothing.
	Ports map[uint16]*TrafficPolicy
}

// Names of Istio's for the ways to choose (LoadBalancerSettings.SimpleLB).
const (
	LeastRequest = "LEAST_REQUEST" // the default
	RoundRobin   = "ROUND_ROBIN"
	Random       = "RANDOM"
	Passthrough  = "PASSTHROUGH"
)

// RetryBudget bounds how many of the requests to a service may be retries at
// one time: Percent (0 to 100) of all that are under way, and at least
// MinConcurrency.
type RetryBudget struct {
	Percent        float64
	MinConcurrency int
}

// LoadBalancer chooses among endpoints. Simple is Istio's name for it
// (LEAST_REQUEST, ROUND_ROBIN, RANDOM, PASSTHROUGH, or "" with a hash).
type LoadBalancer struct {
	Simple   string
	Hash     *ConsistentHash
	Warmup   *Warmup   // nil: none
	Locality *Locality // nil: nothing is said
}

// Warmup has new endpoints take their share little by little; 0 for Least (a
// percentage) and Aggression is Envoy's default, 10 and 1.
type Warmup struct {
	Window            time.Duration
	Least, Aggression float64
}

// ConsistentHash says what the endpoint is chosen by; one of the first fields is
// set. Maglev is the size of Maglev's table, RingSize the least size of a ring;
// with neither it is a ring of the default size.
type ConsistentHash struct {
	Header, Query    string
	SourceIP         bool
	Cookie           *HashCookie
	RingSize, Maglev uint64
}

// HashCookie is made when the request has none, unless TTL is nil. TTL 0: a session
// cookie.
type HashCookie struct {
	Name, Path string
	TTL        *time.Duration
	Attributes []Header
}

// Locality says how the place of endpoints counts (Istio's localityLbSetting).
type Locality struct {
	Disabled   bool
	Distribute []Distribute
	Failover   []Failover
	// FailoverPriority are labels, in the order of their weight: the more of them an
	// endpoint has in common with the workload, from the first on, the sooner it is
	// used. "key=value" compares it with the value instead of the workload's.
	FailoverPriority []string
}

// FailoverPriority are the labels by which the endpoints are told apart; nil: they are
// not, which without outlier detection they never are.
func (t *TrafficPolicy) FailoverPriority() []string {
	if t == nil || t.Outlier == nil || t.LoadBalancer == nil {
		return nil
	}
	l := t.LoadBalancer.Locality
	if l == nil || l.Disabled || len(l.Distribute) > 0 {
		return nil
	}
	return l.FailoverPriority
}

// Labels are those of a workload that the rule compares with those of endpoints.
func (d *DestinationRule) Labels() (out []string) {
	add := func(t *TrafficPolicy) {
		if t == nil || t.LoadBalancer == nil || t.LoadBalancer.Locality == nil {
			return
		}
		for _, label := range t.LoadBalancer.Locality.FailoverPriority {
			if !strings.Contains(label, "=") {
				out = append(out, label)
			}
		}
	}
	each := func(t *TrafficPolicy) {
		if add(t); t != nil {
			for _, p := range t.Ports {
				add(p)
			}
		}
	}
	each(d.Traffic)
	for i := range d.Subsets {
		each(d.Subsets[i].Traffic)
	}
	return out
}

// Distribute says how much of the traffic from a place goes to which others, in
// percent. Places are "region/zone/subzone" or a beginning of it, with "*" at the
// end for all below.
type Distribute struct {
	From string
	To   []LocalityWeight
}

// LocalityWeight is a place and its part.
type LocalityWeight struct {
	Locality string
	Percent  uint32
}

// Failover says to which region traffic of another one goes when there are too few
// good endpoints in that.
type Failover struct{ From, To string }

// ConnectionPool bounds connections and requests; 0: Istio's default, which
// is no bound, 10 s for ConnectTimeout and 1 h for the idle timeouts. A
// negative TCPIdleTimeout says that there is none.
type ConnectionPool struct {
	MaxConnections        int
	ConnectTimeout        time.Duration
	TCPIdleTimeout        time.Duration
	MaxConnectionDuration time.Duration
	Keepalive             *Keepalive
	HTTPIdleTimeout       time.Duration
	HTTP2Keepalive        *HTTP2Keepalive
	MaxPendingRequests    int
	MaxRequests           int
	MaxRequestsPerConn    int
	MaxRetries            int
	MaxConcurrentStreams  int
	UpgradeHTTP2          *bool // h2UpgradePolicy; nil: the default
	UseClientProtocol     bool
}

// Bounded says whether p bounds what is under way.
func (p *ConnectionPool) Bounded() bool {
	return p != nil && (p.MaxConnections > 0 || p.MaxPendingRequests > 0 || p.MaxRequests > 0 || p.MaxRetries > 0)
}

// OfConnections says whether p says anything of a TCP connection but how long it
// may take to be made.
func (p *ConnectionPool) OfConnections() bool {
	return p != nil && (p.MaxConnections > 0 || p.TCPIdleTimeout != 0 || p.MaxConnectionDuration > 0 || p.Keepalive != nil)
}

// Keepalive is TCP's; 0: the system's.
type Keepalive struct {
	Probes         int
	Idle, Interval time.Duration
}

// HTTP2Keepalive asks an HTTP/2 upstream connection whether it lives: a PING when
// nothing came for Interval, and Timeout for its answer.
type HTTP2Keepalive struct{ Interval, Timeout time.Duration }

// OutlierDetection takes endpoints that fail out for a time. nil: not set.
type OutlierDetection struct {
	Consecutive5xx, ConsecutiveGateway, ConsecutiveLocal *uint32
	// Codes are the statuses that count as errors; none: 5xx.
	Codes                                []uint32
	SplitLocal                           bool
	Interval, BaseEjection               time.Duration
	MaxEjectionPercent, MinHealthPercent int
}

// ClientTLSMode is how egressd originates TLS.
type ClientTLSMode uint8

// The modes of ClientTLS. ISTIO_MUTUAL is between parts of a mesh: towards a
// gateway that is this node itself it has no meaning, elsewhere it is an error.
const (
	TLSDisable ClientTLSMode = iota
	TLSSimple
	TLSMutual
	TLSIstioMutual
)

// ClientTLS says how TLS is originated to an upstream.
type ClientTLS struct {
	Mode                             ClientTLSMode
	Certificate, PrivateKey, CA, CRL string // files
	CredentialName                   string
	// Secret is the Secret of CredentialName, NAMESPACE/NAME; "": there is none.
	Secret string
	// SubjectAltNames are whom the certificate may be for; none: the name that the
	// handshake asks for.
	SubjectAltNames    []string
	SNI                string // "": the name that was asked for
	InsecureSkipVerify bool
	// FromCluster: an object of an API server says so, whose writers have no files
	// of the node's.
	FromCluster bool
	// Refused says why it cannot be done, in a few words; "": it can.
	Refused string
}

// Originated is how TLS is originated; nil: it is not.
func (t *TrafficPolicy) Originated() *ClientTLS {
	if t == nil || t.TLS == nil || t.TLS.Mode == TLSDisable {
		return nil
	}
	return t.TLS
}

// Transport says how connections are made, beyond being made: equal texts are the
// same way. "" is plain TCP.
func (t *TrafficPolicy) Transport() string {
	if t == nil {
		return ""
	}
	only := TrafficPolicy{TLS: t.Originated(), Tunnel: t.Tunnel, ProxyProtocol: t.ProxyProtocol}
	if only.TLS == nil && only.Tunnel == nil && only.ProxyProtocol == 0 {
		return ""
	}
	return only.Describe()
}

// Tunnel reaches TCP destinations through an HTTP proxy.
type Tunnel struct {
	Protocol   string // CONNECT or POST
	TargetHost string
	TargetPort uint16
}

// ServerTLSMode is what a gateway server does with TLS.
type ServerTLSMode uint8

// The modes of ServerTLS (istio.io/api ServerTLSSettings.TLSmode).
const (
	ServerPassthrough ServerTLSMode = iota
	ServerSimple
	ServerMutual
	ServerAutoPassthrough
	ServerIstioMutual
	ServerOptionalMutual
)

// NoCipherSuite stands in ServerTLS.CipherSuites for a list of which nothing is left.
const NoCipherSuite = "none"

// ServerTLS is the TLS of a gateway server; nil for plain text.
type ServerTLS struct {
	Mode         ServerTLSMode
	Certificates []CertificateFiles
	CA, CRL      string // files
	// CredentialNames are Secrets, as in the source: NAME of the Gateway's namespace,
	// kubernetes://NAME, or kubernetes-gateway://NAMESPACE/NAME. CACredentialName is the
	// one with the CA of clients; "": CA, or the first of CredentialNames.
	CredentialNames        []string
	CACredentialName       string
	SubjectAltNames        []string
	VerifySPKI, VerifyHash []string
	// MinVersion and MaxVersion are crypto/tls numbers; 0: TLS 1.2 and 1.3.
	MinVersion, MaxVersion uint16
	// CipherSuites are those below TLS 1.3, by their names of OpenSSL. None: the usual
	// ones; NoCipherSuite alone: none.
	CipherSuites []string
}

// CertificateFiles are a certificate chain and its key.
type CertificateFiles struct{ Certificate, PrivateKey string }

// Mirror sends a copy of requests to another destination and drops the answer.
type Mirror struct {
	Destination Destination
	Percent     float64 // 0 to 100; Istio's default is 100
}

// CORS answers preflight requests and marks answers (Istio CorsPolicy).
type CORS struct {
	AllowOrigins                              []StringMatch
	AllowMethods, AllowHeaders, ExposeHeaders []string
	MaxAge                                    *time.Duration // whole seconds; nil: none
	AllowCredentials                          *bool
	// IgnorePreflights: preflights that match no origin are answered, with
	// nothing that would allow them, and not forwarded (unmatchedPreflights
	// IGNORE).
	IgnorePreflights bool
}

var serverTLSNames = [...]string{"PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"}

func (m ServerTLSMode) String() string {
	if int(m) < len(serverTLSNames) {
		return serverTLSNames[m]
	}
	return "?"
}

var tlsModeNames = [...]string{"DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"}

// String is what Istio calls the mode.
func (m ClientTLSMode) String() string {
	if int(m) < len(tlsModeNames) {
		return tlsModeNames[m]
	}
	return "?"
}
