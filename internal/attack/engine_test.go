// SPDX-License-Identifier: Apache-2.0

package attack

import "github.com/egressd/egressd/internal/world"

const byFrames = "forwarding core: frames that say nothing are bounded, GOAWAY ENHANCE_YOUR_CALM"

// smuggle is one request in a form that servers read in two ways, with another one
// behind it.
func smuggle(head, body string) func(*arena, *world.Cgroup) string {
	return web(head+`\r\nHost: {google}\r\n`+body, get, `{google}\r\n\r\n`)
}

// h2flood sends frames that say nothing, and then asks for something. Where egressd
// answers them, it may be cut off in the middle of a frame, which no GOAWAY follows.
func h2flood(kind string) func(*arena, *world.Cgroup) string {
	return names("h2_flood", "{G4}", "80", "{google}", kind)
}

const siteRefuses = "the site refuses it too"

// engineRows are messages that cost more than they say, or say two things.
var engineRows = []row{
	{attack: "request smuggling", how: "a line that ends in LF alone hides a length", want: "HTTP 400", by: byCore, do: smuggle(`POST / HTTP/1.1`, `X: y\nContent-Length: 40\r\n\r\n`), proof: googleHits},
	{attack: "request smuggling", how: "CR alone before the request line", want: "ECONNRESET|silence|HTTP 400", by: byCore, do: smuggle(`\rGET / HTTP/1.1`, `\r\n`), proof: googleHits, noTwin: siteRefuses},
	{attack: "request smuggling", how: "a list of equal lengths", want: "HTTP 400", by: byCore, do: smuggle(`POST / HTTP/1.1`, `Content-Length: 3, 3\r\n\r\nabc`), proof: googleHits, noTwin: siteRefuses},
	{attack: "request smuggling", how: "two lengths that differ by a zero", want: "HTTP 400", by: byCore, do: smuggle(`POST / HTTP/1.1`, `Content-Length: 3\r\nContent-Length: 03\r\n\r\nabc`), proof: googleHits, noTwin: siteRefuses},
	{attack: "request smuggling", how: "chunked twice", want: "HTTP 501", by: byCore, do: smuggle(`POST / HTTP/1.1`, `Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`), proof: googleHits, noTwin: siteRefuses},
	{attack: "request smuggling", how: "a blank before the colon of Transfer-Encoding", want: "HTTP 400", by: byCore, do: smuggle(`POST / HTTP/1.1`, `Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n`), proof: googleHits, noTwin: siteRefuses},
	{attack: "request smuggling", how: "NUL in the name of Content-Length", want: "HTTP 400", by: byCore, do: smuggle(`POST / HTTP/1.1`, `Content-Length\x00: 40\r\n\r\n`), proof: googleHits, noTwin: siteRefuses},
	{attack: "header bomb", how: "a field of 100 KB", want: "HTTP 431", by: byCore, do: names("header_bomb", "{G4}", "80", "{google}", "1", "100000"), proof: googleHits},
	{attack: "header bomb", how: "1,500 fields", want: "HTTP 431", by: byCore, do: names("header_bomb", "{G6}", "80", "{google}", "1500", "1"), proof: googleHits},
	{attack: "HPACK bomb", how: "a field of 4 KB in the table, named 40 times by a byte", want: "h2 no", by: byCore, do: names("hpack_bomb", "{G4}", "80", "{google}", "40"), proof: googleHits},
	{attack: "HPACK bomb", how: "the same 2,000 times", want: "h2 no|h2 GOAWAY", by: byCore, do: names("hpack_bomb", "{G6}", "80", "{google}", "2000"), proof: googleHits, noTwin: siteRefuses},
	{attack: "HTTP/2 flood", how: "20,000 PING frames, and then a request", want: "h2 calm|h2 ended", by: byFrames, do: h2flood("ping"), proof: googleHits},
	{attack: "HTTP/2 flood", how: "20,000 SETTINGS frames", want: "h2 calm|h2 ended", by: byFrames, do: h2flood("settings"), proof: googleHits},
	{attack: "HTTP/2 flood", how: "20,000 WINDOW_UPDATE frames", want: "h2 calm", by: byFrames, do: h2flood("window"), proof: googleHits},
	{attack: "HTTP/2 flood", how: "20,000 PRIORITY frames", want: "h2 calm", by: byFrames, do: h2flood("priority"), proof: googleHits},
	{attack: "HTTP/2 flood", how: "20,000 empty CONTINUATION frames within a header", want: "h2 calm", by: byFrames, do: h2flood("continuation"), proof: googleHits},
	{attack: "HTTP/2 flood", how: "5,000 streams, each reset when it is opened", want: "h2 calm|h2 ended", by: byFrames, do: h2flood("reset"), seen: is("h2 200"), noTwin: "the site's bound depends on how busy it is"},
}
