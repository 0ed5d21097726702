// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/egressd/egressd/internal/world"
)

// consents are what the operator of the arena's node allows: more than anybody
// should, and nothing of it leads to egressd.
var consents = []string{"unix://{dir}/link.sock", "unix://{dir}/egressd/run/admin.sock", "127.0.0.1:15000"}

const (
	byConsent = "forwarding core: the node's operator has not allowed the endpoint"
	byItself  = "forwarding core: egressd does not dial itself, allowed or not"
	aPolicy   = "without the policy nothing leads there; what is allowed is served (internal/e2e)"
)

// authors are what an author of policy may write in a namespace of his own, to
// reach what is not his. The captured process makes an ordinary request.
var authors = []row{
	{attack: "endpoint on the node", how: "a unix socket of root's", want: "HTTP 502", by: byConsent, do: site("240.0.20.1", "GET / "), seen: has("200"), noTwin: aPolicy},
	{attack: "endpoint on the node", how: "a link, which is allowed, to that socket", want: "HTTP 502", by: byConsent, do: site("240.0.20.2", "GET / "), seen: has("200"), noTwin: aPolicy},
	{attack: "endpoint on the node", how: "egressd's admin socket, allowed: POST /unload", want: "HTTP 502", by: byItself, do: site("240.0.20.3", "POST /unload "), seen: has("202"), noTwin: aPolicy},
	{attack: "endpoint on the node", how: "127.0.0.1:15000, allowed: GET /config_dump", want: "HTTP 502", by: byItself, do: site("240.0.20.4", "GET /config_dump "), seen: has("200"), noTwin: aPolicy},
	{attack: "endpoint on the node", how: "a proxy on 127.0.0.1 that leads to the stranger", want: "HTTP 502", by: byConsent, do: site("240.0.20.5", "GET / "), noTwin: aPolicy},
	{attack: "endpoint on the node", how: "the same on ::1", want: "HTTP 502", by: byConsent, do: site("240.0.20.6", "GET / "), noTwin: aPolicy},
	{attack: "address for the node alone", how: "addresses: 169.254.169.254", want: "ECONNREFUSED", by: byConnect, do: ways("knock", "169.254.169.254", "80"), proof: wireTo("169.254.169.254", 80)},
	{attack: "address for the node alone", how: "addresses: fd00:ec2::254", want: "ECONNREFUSED", by: byConnect, do: ways("knock", "fd00:ec2::254", "80"), proof: wireTo("fd00:ec2::254", 80)},
	{attack: "another namespace's host", how: "a STATIC ServiceEntry for it, in a file that comes first: the answer", want: "NOERROR", by: "policy: the workload's own namespace has the host", do: code("{google}"), seen: has(thiefV4), noTwin: aPolicy},
	{attack: "another namespace's host", how: "the same: a request", want: "HTTP 200", by: "policy: the workload's own namespace has the host", do: web("GET / HTTP/1.1\\r\\nHost: " + world.GoogleAPIs + "\\r\\nConnection: close\\r\\n\\r\\n"), proof: thiefHits, noTwin: aPolicy},
	{attack: "another namespace's host", how: "a VirtualService for it, in a file that comes first", want: "HTTP 200", by: "policy: the workload's own namespace has rules for the host", do: names("http", "{API4}", "80", "GET /allowed HTTP/1.1\\r\\nHost: "+world.API+"\\r\\nConnection: close\\r\\n\\r\\n"), proof: thiefHits, noTwin: aPolicy},
}

// site asks for a path at an address of the other author's.
func site(addr, request string) func(*arena, *world.Cgroup) string {
	return names("http", addr, "80", request+"HTTP/1.1\\r\\nHost: "+siteName[addr]+".tenant-b.example\\r\\nConnection: close\\r\\n\\r\\n")
}

var siteName = map[string]string{
	"240.0.20.1": "socket", "240.0.20.2": "link", "240.0.20.3": "admin", "240.0.20.4": "port", "240.0.20.5": "loopback", "240.0.20.6": "loopback6",
}

// thiefV4 is the other author's own server.
const thiefV4 = "203.0.113.99"

func thiefHits(a *arena) int { return a.thief.Hits() }

// code asks for a name, and returns what came of it, with the addresses if the
// other author's is among them.
func code(name string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		got := ask("udp", "{R4}", "53", name)(a, cg)
		if strings.Contains(got, thiefV4) {
			return got
		}
		rcode, _, _ := strings.Cut(got, ",")
		return rcode
	}
}

// addAuthors makes what these rows lead to. It returns the policy and the
// daemon's flags.
func (a *arena) addAuthors() (policy []byte, flags []string) {
	text, err := os.ReadFile("testdata/00-authors.yaml")
	a.must(err)
	a.thief, err = a.AddOrigin(world.OriginConfig{Names: []string{"server.tenant-b.example"}, V4: addr(thiefV4), V6: addr("2001:db8:bad::99")})
	a.must(err)
	ln, err := net.Listen("unix", filepath.Join(a.Dir(), "service.sock"))
	a.must(err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "root's") })}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	a.t.Cleanup(func() { _ = s.Close(); <-done })
	a.must(os.Symlink("service.sock", filepath.Join(a.Dir(), "link.sock")))
	for _, c := range consents {
		flags = append(flags, "--allow-endpoint", strings.ReplaceAll(c, "{dir}", a.Dir()))
	}
	flags = append(flags, "--admin-address", "localhost:15000") // which captured processes are after
	return []byte(strings.ReplaceAll(string(text), "{dir}", a.Dir())), flags
}
