// SPDX-License-Identifier: Apache-2.0

package semantics

import (
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// TestUnknownWords: what the runner does not know is an error, not a question
// less.
func TestUnknownWords(t *testing.T) {
	for _, text := range []string{
		"tpc a.example:80", "tcp", "tcp a.example", "tcp a.example:70000", "tcp a.example:80 snj=a", "tcp a.example:80 from", "udp a.example:80 sni=a",
		"tcp a.example:80 from Shop", "tcp a.example:80 from shop/web[app]", "tcp a.example:80 at=x", "tcp a.example:80 sometimes",
		"http get a.example/", "http GET a.example", "http GET", "query", "query a.example sni=a", "gateway shop:80 tcp", "gateway shop/gw tcp",
		"gateway shop/gw:80 udp", "gateway shop/gw:80 query a.example", "gateway shop/gw:80 tcp at=192.0.2.1", "tcp a.example:80 as crawler",
	} {
		if q, err := parseQuestion(text); err == nil {
			t.Errorf("%q is read as %+v", text, q)
		}
	}
	for _, text := range []string{"", "a.example", "a.example 192.0.2.1", "a.example =", "a.example = x"} {
		if _, err := parseDNS(words{strings.Fields(text)}); err == nil {
			t.Errorf("dns %q is read", text)
		}
	}
	for _, archive := range []string{
		"", "-- a.yaml --\n", "-- expct --\n", "-- case --\n-- expect --\n", "-- case a --\n", "-- case a --\n-- case b --\n-- expect --\n",
		"-- case a --\n-- expect --\n-- expect --\n", "-- case a --\n-- expect --\n-- case a --\n-- expect --\n",
		"-- case a --\n-- expect --\n-- b.yaml --\n", "-- flags --\n--on-failure open\n-- expect --\n",
	} {
		if all, err := casesOf(txtar.Parse([]byte(archive))); err == nil {
			t.Errorf("%q is read as %d cases", archive, len(all))
		}
	}
	c := &kase{expect: &txtar.File{Data: []byte("# nothing\n")}}
	if _, err := c.lines(); err == nil {
		t.Error("a case that asks nothing is good")
	}
}

// TestRendered: the line that is shown for a wrong answer is a good line.
func TestRendered(t *testing.T) {
	const archive = `-- a.yaml --
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db.example.com]
  ports: [{number: 5432, targetPort: 15432, name: pg, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.10}, {address: "2001:db8::10"}]
-- expect --
tcp db.example.com:5432 from shop/web[app=a] as web => deny no-rule
`
	all, err := casesOf(txtar.Parse([]byte(archive)))
	if err != nil {
		t.Fatal(err)
	}
	c := all[0]
	for round := range 2 {
		lines, err := c.lines()
		if err != nil {
			t.Fatal(err)
		}
		a := &asker{s: c.compile(t, lines)}
		var written []string
		for _, l := range lines {
			got, err := a.ask(l.q)
			if err != nil {
				t.Fatal(err)
			}
			text := render(l.ask, got)
			if wrong := text != l.text; wrong != (round == 0) {
				t.Errorf("round %d: %q, written %q", round, text, l.text)
			}
			written = append(written, text)
		}
		c.expect.Data = []byte(strings.Join(written, "\n"))
	}
	if n := strings.Count(string(c.expect.Data), "at="); n != 2 {
		t.Errorf("two families differ, and there are %d lines:\n%s", n, c.expect.Data)
	}
}
