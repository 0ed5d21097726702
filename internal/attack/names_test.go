// SPDX-License-Identifier: Apache-2.0

package attack

import "github.com/egressd/egressd/internal/world"

const (
	byHello = "ClientHello in the kernel"
	byCore  = "forwarding core"
	byDNS   = "DNS proxy"
)

func sharedHits(a *arena) int { return a.shared.Hits() }
func googleHits(a *arena) int { return a.GoogleAPIs.Hits() }
func apiHits(a *arena) int    { return a.API.Hits() }

// got is what the echo of a ClientHello's bytes comes to.
var reached = is("reached")

// hello sends first bytes to a server that echoes them, on a port that is
// allowed for HTTPS.
func hello(variant, name string, more ...string) func(*arena, *world.Cgroup) string {
	return names("first", append([]string{"{T4}", "443", variant, name}, more...)...)
}

const cutResult = "ECONNABORTED|ECONNRESET|EPIPE"

// tlsRows are TLS connections to addresses that are allowed, mostly.
var tlsRows = []row{
	{attack: "shared address", how: "SNI of the other site at an allowed site's address", want: cutResult, by: byHello, do: names("https", "{S4}", "443", "b.cdn.example", "b.cdn.example"), proof: sharedHits},
	{attack: "spoofed SNI", how: "an allowed name at the stranger's address", want: "ECONNREFUSED", by: byConnect, do: names("https", "{A4}", "443", "{google}", "{google}")},
	{attack: "spoofed SNI", how: "an allowed name at another allowed site's address", want: cutResult, by: byHello, do: names("https", "{S4}", "443", "{google}", "{google}"), proof: sharedHits},
	{attack: "domain fronting", how: "SNI allowed, Host inside TLS of the other site", want: "HTTP 200", open: true, by: "what is inside TLS is not seen; use a Gateway that ends TLS", do: names("https", "{S4}", "443", "a.cdn.example", "b.cdn.example"), proof: sharedHits},
	{attack: "no SNI", how: "no server_name at all", want: cutResult, by: byHello, do: names("https", "{S4}", "443", "", "b.cdn.example"), proof: sharedHits},
	{attack: "no SNI", how: "an empty server_name", want: cutResult, by: byHello, do: hello("empty", "tls.example"), seen: reached},
	{attack: "no SNI", how: "an address as server_name", want: cutResult, by: byHello, do: hello("name", "{T4}"), seen: reached},
	{attack: "two names", how: "two in one server_name", want: cutResult, by: byHello, do: hello("two", "tls.example"), seen: reached},
	{attack: "two names", how: "two server_name extensions", want: cutResult, by: byHello, do: hello("twice", "tls.example"), seen: reached},
	{attack: "NUL in the SNI", how: `tls.example\0.stranger.example`, want: cutResult, by: byHello, do: hello("nul", "tls.example"), seen: reached},
	{attack: "similar SNI", how: "tls.example.stranger.example", want: cutResult, by: byHello, do: hello("name", "tls.example.stranger.example"), seen: reached},
	{attack: "similar SNI", how: "eviltls.example", want: cutResult, by: byHello, do: hello("name", "eviltls.example"), seen: reached},
	{attack: "similar SNI", how: "STRANGER.Example", want: cutResult, by: byHello, do: hello("name", "STRANGER.Example"), seen: reached},
	{attack: "similar SNI", how: "stranger.example. with the dot of the root", want: cutResult, by: byHello, do: hello("name", "stranger.example."), seen: reached},
	{attack: "similar SNI", how: "tls.example and a space", want: cutResult, by: byHello, do: hello("name", "tls.example "), seen: reached},
	{attack: "ECH", how: "outer name of the stranger's provider", want: cutResult, by: byHello, do: hello("ech", "provider.stranger.example"), seen: reached},
	{attack: "ECH", how: "outer name allowed, inner name unknown", want: "reached", open: true, by: "who has the keys may hide a name; DNS answers are stripped of ech", do: hello("ech", "tls.example"), seen: reached},
	{attack: "split ClientHello", how: "stranger's SNI, byte by byte", want: cutResult, by: byHello, do: hello("name", "stranger.example", "1"), seen: reached},
	{attack: "split ClientHello", how: "stranger's SNI, TLS records of 3 bytes", want: cutResult, by: byHello, do: hello("records", "stranger.example"), seen: reached},
	{attack: "split ClientHello", how: "stranger's SNI behind 40 KB of padding", want: cutResult, by: byHello, do: hello("padded", "stranger.example"), seen: reached},
	{attack: "split ClientHello", how: "stranger's SNI, records of 3 bytes, 7 bytes a segment", want: cutResult, by: byHello, do: hello("records", "stranger.example", "7"), seen: reached},
	{attack: "second ClientHello", how: "a HelloRetryRequest, then the other site's SNI", want: cutResult, by: byHello, do: names("retry", "{S4}", "443", "a.cdn.example", "b.cdn.example"), seen: reached, noTwin: "this site's server refuses another name itself; OpenSSL's takes it"},
	{attack: "second ClientHello", how: "stranger's SNI right behind an allowed hello", want: cutResult, by: byHello, do: hello("again", "stranger.example"), seen: reached},
	{attack: "second ClientHello", how: "the same behind a change_cipher_spec", want: cutResult, by: byHello, do: hello("again-ccs", "stranger.example"), seen: reached},
	{attack: "second ClientHello", how: "the same in records of 3 bytes", want: cutResult, by: byHello, do: hello("again-pieces", "stranger.example"), seen: reached},
	{attack: "second ClientHello", how: "the same behind an alert that servers ignore", want: cutResult, by: byHello, do: hello("again-alert", "stranger.example"), seen: reached},
	{attack: "second ClientHello", how: "the same behind early data", want: cutResult, by: byHello, do: hello("again-early", "stranger.example"), seen: reached},
	{attack: "second ClientHello", how: "without SNI", want: cutResult, by: byHello, do: hello("again-none", ""), seen: reached},
	{attack: "memory that changes", how: "sendfile() of an allowed hello; sent again with another name", want: cutResult, by: byHello, do: names("changed", "{T4}", "443", "tls.example", "bad.example"), seen: reached},
	{attack: "urgent byte", how: "MSG_OOB in an allowed hello: the server reads another", want: cutResult, by: byHello, do: hello("name", "tls.example", "0", "urgent"), seen: reached},
	{attack: "send() in SYN_SENT", how: "stranger's SNI sent before the handshake ends", want: cutResult, by: byHello, do: hello("name", "stranger.example", "0", "early"), seen: reached},
	{attack: "TCP Fast Open", how: "stranger's SNI in the SYN to an allowed address", want: cutResult, by: byHello, do: hello("name", "stranger.example", "0", "fastopen"), seen: reached},
	{attack: "not TLS", how: "plain HTTP on 443", want: cutResult, by: byHello, do: hello("http", "tls.example"), seen: reached},
	{attack: "not TLS", how: "an SSL 2 hello", want: cutResult, by: byHello, do: hello("ssl2", "tls.example"), seen: reached},
	{attack: "not TLS", how: "change_cipher_spec before the hello", want: cutResult, by: byHello, do: hello("change", "tls.example"), seen: reached},
	{attack: "not TLS", how: "an alert before the hello", want: cutResult, by: byHello, do: hello("alert", "tls.example"), seen: reached},
	{attack: "TLS on another port", how: "8443 of an allowed host", want: "ECONNREFUSED", by: byConnect, do: ways("knock", "{G4}", "8443"), proof: wirePort(8443)},
	{attack: "TLS on another port", how: "TLS with the stranger's SNI on port 80", want: "ECONNRESET|closed", by: byCore, do: names("first", "{G4}", "80", "name", "stranger.example"), proof: func(a *arena) int { return a.GoogleAPIs.Conns() }},
	{attack: "silent client", how: "connects to port 80 and sends nothing", want: "silence", by: "forwarding core: nothing is dialled before it is decided", do: names("silent", "{G4}", "80"), proof: func(a *arena) int { return a.GoogleAPIs.Conns() }},
}

const get = `GET / HTTP/1.1\r\nHost: `

// web sends requests to an allowed site, port 80.
func web(parts ...string) func(*arena, *world.Cgroup) string {
	return names("http", append([]string{"{G4}", "80"}, parts...)...)
}

// path asks for a path of a site of which only /allowed is.
func path(p string) func(*arena, *world.Cgroup) string {
	return names("http", "{API4}", "80", "GET "+p+` HTTP/1.1\r\nHost: api.example.com\r\n\r\n`)
}

const byPool = "forwarding core: an upstream connection on which somebody logged in is the client's own"

// behindLogin asks a site that authenticates connections behind somebody who has
// logged in there: a process of another workload, or of the attacker's.
func behindLogin(victim bool) func(*arena, *world.Cgroup) string {
	const ask = `GET /allowed/ntlm HTTP/1.1\r\nHost: api.example.com\r\n`
	return func(a *arena, cg *world.Cgroup) string {
		who := cg
		if victim && cg != nil {
			var err error
			who, err = a.d.Root.Child("victim")
			a.must(err)
			defer func() { a.must(who.Close()) }()
		}
		if got := names("http", "{API4}", "80", ask+`Authorization: NTLM x\r\n\r\n`)(a, who); got != "HTTP 200" {
			return "the login: " + got
		}
		return names("http", "{API4}", "80", ask+`\r\n`)(a, cg)
	}
}

// httpRows are requests to allowed addresses.
var httpRows = []row{
	{attack: "Host of a stranger", how: "on an allowed site's address", want: "HTTP 502", by: byCore, do: web(get, `stranger.example\r\n\r\n`), proof: googleHits},
	{attack: "Host of a stranger", how: "in the second request of a good connection", want: "HTTP 200, 502", by: byCore, do: web(get, `{google}\r\n\r\n`, get, `stranger.example\r\n\r\n`), seen: is("HTTP 200, 200")},
	{attack: "two Hosts", how: "allowed and stranger's", want: "HTTP 400", by: byCore, do: web(get, `{google}\r\nHost: stranger.example\r\n\r\n`), proof: googleHits, noTwin: "the site refuses it too"},
	{attack: "folded Host", how: `Host:\r\n stranger.example`, want: "HTTP 400", by: byCore, do: web(get, `{google}\r\nHost:\r\n stranger.example\r\n\r\n`), proof: googleHits, noTwin: "the site refuses it too"},
	{attack: "no Host", how: "HTTP/1.0", want: "HTTP 400", by: byCore, do: web(`GET / HTTP/1.0\r\n\r\n`), proof: googleHits},
	{attack: "Host with credentials", how: "www.googleapis.com:80@stranger.example", want: "HTTP 400", by: byCore, do: web(get, `{google}:80@stranger.example\r\n\r\n`), proof: googleHits, noTwin: "the site refuses it too"},
	{attack: "absolute form", how: "the stranger's URL, allowed Host", want: "HTTP 400", by: byCore, do: web(`GET http://stranger.example/ HTTP/1.1\r\nHost: {google}\r\n\r\n`), proof: googleHits},
	{attack: "absolute form", how: "an allowed URL, the stranger's Host", want: "HTTP 400", by: byCore, do: web(`GET http://{google}/ HTTP/1.1\r\nHost: stranger.example\r\n\r\n`), proof: googleHits},
	{attack: "absolute form", how: "the stranger's URL as :path of HTTP/2", want: "h2 no", by: byCore, do: names("h2_path", "{G4}", "80", "{google}", "http://stranger.example/"), proof: googleHits},
	{attack: "absolute form", how: "the same over IPv6, of the allowed site", want: "h2 no", by: byCore, do: names("h2_path", "{G6}", "80", "{google}", "http://{google}/x"), proof: googleHits},
	{attack: "fragment", how: "/x#y in HTTP/1", want: "HTTP 400", by: byCore, do: web(`GET /x#y HTTP/1.1\r\nHost: {google}\r\n\r\n`), proof: googleHits},
	{attack: "fragment", how: "/x#y in HTTP/2", want: "h2 no", by: byCore, do: names("h2_path", "{G4}", "80", "{google}", "/x#y"), proof: googleHits},
	{attack: "CONNECT", how: "CONNECT stranger.example:443", want: "HTTP 400", by: byCore, do: web(`CONNECT stranger.example:443 HTTP/1.1\r\nHost: stranger.example:443\r\n\r\n`), proof: googleHits},
	{attack: "CONNECT", how: "CONNECT of an allowed name", want: "HTTP 400", by: byCore, do: web(`CONNECT {google}:443 HTTP/1.1\r\nHost: {google}:443\r\n\r\n`), proof: googleHits},
	{attack: "request smuggling", how: "Content-Length and Transfer-Encoding, stranger's Host behind", want: "HTTP 400", by: byCore, do: web(`POST / HTTP/1.1\r\nHost: {google}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, get, `stranger.example\r\n\r\n`), proof: googleHits},
	{attack: "request smuggling", how: "Transfer-Encoding in HTTP/1.0, another request in the body", want: "HTTP 400", by: byCore, do: web(`POST / HTTP/1.0\r\nConnection: keep-alive\r\nHost: {google}\r\nTransfer-Encoding: chunked\r\n\r\n`, get, `{google}\r\n\r\n`), proof: googleHits},
	{attack: "request smuggling", how: "another request behind a broken chunk", want: "HTTP 400|HTTP 200", by: byCore, do: web(`POST / HTTP/1.1\r\nHost: {google}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n`, get, `{google}\r\n\r\n`), seen: has(", "), noTwin: "the site closes the connection too"},
	{attack: "request smuggling", how: "a folded Content-Length", want: "HTTP 400", by: byCore, do: web(`POST / HTTP/1.1\r\nHost: {google}\r\nContent-Length:\r\n 2\r\n\r\nab`), proof: googleHits},
	{attack: "request smuggling", how: "Transfer-Encoding: xchunked", want: "HTTP 501", by: byCore, do: web(`POST / HTTP/1.1\r\nHost: {google}\r\nTransfer-Encoding: xchunked\r\n\r\n`), proof: googleHits, noTwin: "the site refuses it too"},
	{attack: "another's login", how: "NTLM of another workload, on upstream connections that a DestinationRule shares", want: "HTTP 401", by: byPool, do: behindLogin(true), seen: is("HTTP 200"), noTwin: "each has a connection of its own"},
	{attack: "another's login", how: "NTLM of another process of the workload, the same", want: "HTTP 401", by: byPool, do: behindLogin(false), seen: is("HTTP 200"), noTwin: "each has a connection of its own"},
	{attack: "WebSocket", how: "upgrade with the stranger's Host", want: "HTTP 502", by: byCore, do: web(`GET /upgrade HTTP/1.1\r\nHost: stranger.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n`), proof: googleHits},
	{attack: "h2c upgrade", how: "HTTP/1.1 Upgrade: h2c, then frames", want: "HTTP 200", by: "forwarding core: Upgrade: h2c is not passed on", do: web(get, `{google}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n`), seen: is("HTTP 101"), noTwin: "the site does not upgrade"},
	{attack: "HTTP/2 coalescing", how: "second :authority of the stranger's", want: "h2 200, no", by: byCore, do: names("h2", "{G4}", "80", "{google}", "stranger.example"), seen: is("h2 200, 200")},
	{attack: "HTTP/2 coalescing", how: "second :authority of another allowed site", want: "h2 200, no", by: byCore, do: names("h2", "{G4}", "80", "{google}", "api.example.com"), seen: is("h2 200, 200")},
	{attack: "path tricks", how: "/secret beside a rule for /allowed", want: "HTTP 404", by: byCore, do: path("/secret"), proof: apiHits},
	{attack: "path tricks", how: "//allowed", want: "HTTP 404", by: byCore, do: path("//allowed"), proof: apiHits},
	{attack: "path tricks", how: "/%61llowed", want: "HTTP 404", by: byCore, do: path("/%61llowed"), proof: apiHits},
	{attack: "path tricks", how: "/allowed/../secret", want: "HTTP 400", by: byCore, do: path("/allowed/../secret"), proof: apiHits},
	{attack: "path tricks", how: "/allowed/..%2fsecret", want: "HTTP 400", by: byCore, do: path("/allowed/..%2fsecret"), proof: apiHits},
	{attack: "path tricks", how: "/allowed/%2e%2e/secret", want: "HTTP 400", by: byCore, do: path("/allowed/%2e%2e/secret"), proof: apiHits},
	{attack: "path tricks", how: `/allowed/..\secret`, want: "HTTP 400", by: byCore, do: path(`/allowed/..\\secret`), proof: apiHits},
}

func ask(net, server, port, name string, more ...string) func(*arena, *world.Cgroup) string {
	return names("ask", append([]string{net, server, port, name}, more...)...)
}

// dnsRows are questions.
var dnsRows = []row{
	{attack: "DNS tunnelling", how: "data.t1.stranger.example, the node's resolver", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "data.t1.stranger.example"), proof: asked("t1.stranger")},
	{attack: "DNS tunnelling", how: "over TCP", want: "REFUSED", by: byDNS, do: ask("tcp", "{R4}", "53", "data.t2.stranger.example"), proof: asked("t2.stranger")},
	{attack: "DNS tunnelling", how: "over IPv6", want: "REFUSED", by: byDNS, do: ask("udp", "{R6}", "53", "data.t3.stranger.example"), proof: asked("t3.stranger")},
	{attack: "DNS tunnelling", how: "TXT under an allowed wildcard", want: "NOERROR", by: byDNS, do: ask("udp", "{R4}", "53", "data.txt.wild.example", "TXT"), proof: asked("txt.wild")},
	{attack: "DNS tunnelling", how: "NULL under an allowed wildcard", want: "NOERROR", by: byDNS, do: ask("udp", "{R4}", "53", "data.null.wild.example", "NULL"), proof: asked("null.wild")},
	{attack: "DNS tunnelling", how: "CAA under an allowed wildcard", want: "NOERROR", by: byDNS, do: ask("udp", "{R4}", "53", "data.caa.wild.example", "CAA"), proof: asked("caa.wild")},
	{attack: "DNS tunnelling", how: "DNSKEY under an allowed wildcard", want: "NOERROR", by: byDNS, do: ask("tcp", "{R6}", "53", "data.dnskey.wild.example", "DNSKEY"), proof: asked("dnskey.wild")},
	{attack: "DNS tunnelling", how: "RRSIG under an allowed wildcard", want: "NOERROR", by: byDNS, do: ask("udp", "{R6}", "53", "data.rrsig.wild.example", "RRSIG"), proof: asked("rrsig.wild")},
	{attack: "DNS tunnelling", how: "NS under an allowed wildcard", want: "NOERROR", by: byDNS, do: ask("udp", "{R4}", "53", "data.ns.wild.example", "NS"), proof: asked("ns.wild")},
	{attack: "DNS tunnelling", how: "SOA under an allowed wildcard", want: "NOERROR", by: byDNS, do: ask("udp", "{R4}", "53", "data.soa.wild.example", "SOA"), proof: asked("soa.wild")},
	{attack: "DNS tunnelling", how: "a private type under an allowed wildcard", want: "NOERROR", by: byDNS, do: ask("udp", "{R4}", "53", "data.private.wild.example", "PRIVATE"), proof: asked("private.wild")},
	{attack: "DNS tunnelling", how: "the target of an alias under an allowed wildcard is data", want: "NOERROR, data", open: true, by: "names and addresses are what DNS answers, and who owns the wildcard's zone chooses them; name hosts exactly", do: names("alias", "{R4}", "told.wild.example"), seen: has("data")},
	{attack: "DNS tunnelling", how: "addresses under an allowed wildcard are data", want: "NOERROR, 2a00:5345:4352:4554::1", open: true, by: "names and addresses are what DNS answers, and who owns the wildcard's zone chooses them; name hosts exactly", do: ask("udp", "{R4}", "53", "numbers.wild.example", "AAAA"), seen: has("5345:4352:4554")},
	{attack: "DNS tunnelling", how: "A under an allowed wildcard: the labels are data", want: "NXDOMAIN", open: true, by: "who owns the wildcard's zone is told; name hosts exactly", do: ask("udp", "{R4}", "53", "data.label.wild.example"), proof: asked("label.wild")},
	{attack: "DNS tunnelling", how: "a service name of an allowed host: a long label is data", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "_sixteen-letters1._tcp.{google}", "SRV"), proof: asked("_sixteen-letters1")},
	{attack: "DNS tunnelling", how: "a label without underscore before one", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "data._tcp.{google}", "SRV"), proof: asked("data._tcp")},
	{attack: "DNS tunnelling", how: "addresses of a service name", want: "NOERROR", by: byDNS, do: ask("udp", "{R4}", "53", "_data._tcp.{google}", "A"), proof: asked("_data._tcp")},
	{attack: "DNS tunnelling", how: "a reverse name", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "66.113.0.203.in-addr.arpa", "PTR"), proof: asked("in-addr")},
	{attack: "DNS tunnelling", how: "the stranger as second question", want: "FORMERR", by: byDNS, do: ask("udp", "{R4}", "53", "{google}", "A", "t4.stranger.example"), proof: asked("t4.stranger"), noTwin: "servers refuse it too"},
	{attack: "DNS tunnelling", how: "dynamic update (RFC 2136)", want: "NOTIMP", by: byDNS, do: names("update", "{R4}", "t5.stranger.example"), proof: asked("t5.stranger"), noTwin: "servers refuse it too"},
	{attack: "DNS tunnelling", how: "zone transfer of an allowed name", want: "NOTIMP", by: byDNS, do: ask("tcp", "{R4}", "53", "{google}", "AXFR"), seen: has("NOERROR")},
	{attack: "another resolver", how: "an allowed name, UDP", want: "NOERROR, 142.250.74.10", by: "DNS proxy: answered by a trusted server", do: ask("udp", "{O4}", "53", "{google}"), proof: askedAt(world.OtherResolverV4)},
	{attack: "another resolver", how: "an allowed name, TCP", want: "NOERROR, 142.250.74.10", by: "DNS proxy: answered by a trusted server", do: ask("tcp", "{O4}", "53", "{google}"), proof: askedAt(world.OtherResolverV4)},
	{attack: "another resolver", how: "the stranger on port 53", want: "REFUSED", by: byDNS, do: ask("udp", "{A4}", "53", "t6.stranger.example")},
	{attack: "another resolver", how: "port 5353", want: "EPERM", by: bySendmsg, do: ask("udp", "{O4}", "5353", "{google}"), proof: wirePort(5353)},
	{attack: "another resolver", how: "port 5353, multicast", want: "EPERM", by: bySendmsg, do: ask("udp", "224.0.0.251", "5353", "stranger.local"), proof: wirePort(5353)},
	{attack: "DNS over TLS", how: "port 853 of a public resolver", want: "ECONNREFUSED", by: byConnect, do: ways("knock", "{O4}", "853"), proof: wirePort(853)},
	{attack: "DNS over QUIC", how: "UDP port 853 of a public resolver", want: "EPERM", by: bySendmsg, do: ways("udp", "{O4}", "853"), proof: wirePort(853)},
	{attack: "DNS over HTTPS", how: "port 443 of a public resolver, by address", want: "ECONNREFUSED", by: byConnect, do: ways("knock", "{O4}", "443"), proof: wireTo(world.OtherResolverV4, 443)},
	{attack: "fake answers", how: "a resolver of the workload's own on 127.0.0.1:53", want: "the truth", by: "DNS proxy: port 53 goes to it, on loopback too", do: names("own_resolver", "{google}", "{A4}"), seen: is("the lie")},
	{attack: "fake answers", how: "datagrams from the resolver's address to the node's", want: "EPERM", by: bySendmsg, do: names("spoofed_answer", "{R4}", "{N4}"), seen: is("sent")},
	{attack: "similar names", how: "www.googleapis.com.stranger.example", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "{google}.stranger.example"), proof: asked("com.stranger")},
	{attack: "similar names", how: "evilwww.googleapis.com", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "evil{google}"), proof: asked("evilwww")},
	{attack: "similar names", how: "x.www.googleapis.com", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "x.{google}"), proof: asked("x.www")},
	{attack: "similar names", how: "wild.example beside *.wild.example", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "wild.example"), proof: asked("wild.example")},
	{attack: "similar names", how: "evil-wild.example", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "x.evil-wild.example"), proof: asked("evil-wild")},
	{attack: "similar names", how: "WWW.Stranger.EXAMPLE", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "CAPITALS.Stranger.EXAMPLE"), proof: asked("capitals")},
	{attack: "similar names", how: "www_googleapis.com", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "www_googleapis.com"), proof: asked("www_googleapis")},
	{attack: "similar names", how: "xn--www-googleapis.com: punycode", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "xn--ww-fka.googleapis.com"), proof: asked("xn--")},
	{attack: "NUL in a name", how: `www\0.stranger.wild.example`, want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", `nul\0x.wild.example`), proof: asked("nul")},
	{attack: "search suffix", how: "allowed name with a suffix that tells something", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "{google}.secret.corp.example"), proof: asked("secret.corp")},
}
