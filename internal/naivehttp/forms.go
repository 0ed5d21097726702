// SPDX-License-Identifier: Apache-2.0

package naivehttp

import "strings"

// Forms are requests that servers are known to read in different ways: what would be
// a request of its own stands behind each.
func Forms() (all []string) {
	const get, second = "GET / HTTP/1.1\r\nHost: h\r\n", "GET /second HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, fields := range []string{
		"Content-Length: 3", "Content-Length: 03", "Content-Length: +3", "Content-Length: -3", "Content-Length: 3, 3", "Content-Length: 3,4",
		"Content-Length: 0x3", "Content-Length: 3 3", "Content-Length: 3\x0b", "Content-Length: \xb3", "Content-Length: 3.0", "Content-Length:", "Content-Length: 3_0",
		"Content-Length: 9223372036854775807", "Content-Length: 9223372036854775808", "Content-Length: 18446744073709551619",
		"Content-Length: 3\r\nContent-Length: 3", "Content-Length: 3\r\nContent-Length: 4", "Content-Length: 3\r\nX: y\r\nContent-length: 3", "Content-Length : 3", "Content-Length\t: 3",
		"Content-Length\x00: 3", "Content-Length: 3\x00", " Content-Length: 3", "X: y\r\n Content-Length: 3", "X: y\r\n\tContent-Length: 3", "Content-Length:\r\n 3", "X: y\nContent-Length: 3", "X: y\rContent-Length: 3",
		"Content_Length: 3", "Content-Length\xa0: 3", "\xefContent-Length: 3", "X\r\nContent-Length: 3", ": x", "Content-Length;: 3",
		"Transfer-Encoding: chunked", "transfer-encoding:chunked", "Transfer-Encoding: CHUNKED", "Transfer-Encoding: chun\xe2\x84\xaaed", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
		"Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked,",
		"Transfer-Encoding: \x0bchunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding\r\n: chunked", "Transfer-Encoding:\r\n chunked", "Transfer-Encoding : chunked",
		"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "Transfer-Encoding:", "Transfer-Encoding: chunked\x00", "X: y\nTransfer-Encoding: chunked", "Transfer_Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3", "Content-Length: 3\r\nTransfer-Encoding: chunked", "Content-Length: 0\r\nTransfer-Encoding: x",
		"Expect: 100-continue\r\nContent-Length: 3", "Connection: close", "Connection: keep-alive, close", "Connection: Content-Length\r\nContent-Length: 3", "Host: other", "Host : other", "Host: h\x80", "Connection: \xe2\x84\xaaeep-alive",
	} {
		for _, body := range []string{"abc", "3\r\nabc\r\n0\r\n\r\n", "0\r\n\r\n", ""} {
			all = append(all, get+fields+"\r\n\r\n"+body+second, strings.Replace(get, "1.1", "1.0", 1)+"Connection: keep-alive\r\n"+fields+"\r\n\r\n"+body+second)
		}
	}
	for _, body := range []string{
		"zz\r\n", "\r\n", "-1\r\n", "+3\r\nabc\r\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", " 3\r\nabc\r\n0\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n", "3\t;a\r\nabc\r\n0\r\n\r\n", "3 a\r\nabc\r\n0\r\n\r\n", "3;\r\nabc\r\n0\r\n\r\n",
		"3;a=\"\r\nabc\r\n0\r\n\r\n", "3;a\nabc\r\n0\r\n\r\n", "3;a\rb\r\nabc\r\n0\r\n\r\n", "3;a\x00\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabc\r0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\r\nab\r\n0\r\n\r\n", "3\rabc\r\n0\r\n\r\n",
		"0\r\n\n", "0\n\r\n", "0\r\n\r", "0\r\nX: y\r\n\r\n", "0\r\nX: y\n\n", "0\r\nX\r\n\r\n", "0\r\n X: y\r\n\r\n", "0\r\nX: y\r\n z\r\n\r\n", "0\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nHost: h\r\nHost: i\r\n\r\n",
		"00000000000000000000003\r\nabc\r\n000\r\n\r\n", "7ffffffffffffff\r\nabc", "800000000000000\r\nabc", "10000000000000003\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n3\r\ndef\r\n0;x\r\n\r\n", "3\r\nabc\r\n", "3\r\nabc", "3\r\na", "3\r", "3", "\xb3\r\nabc\r\n0\r\n\r\n", "３\r\nabc\r\n0\r\n\r\n",
		"3;" + strings.Repeat("x", MaxChunkLine-4) + "\r\nabc\r\n0\r\n\r\n", "3;" + strings.Repeat("x", MaxChunkLine-5) + "\r\nabc\r\n0\r\n\r\n", "3;" + strings.Repeat("x", MaxChunkLine+2), strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\nx\r\n", 20) + "0\r\n\r\n",
		"0\r\nX: " + strings.Repeat("y", MaxTrailer-9) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", MaxTrailer-8) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", MaxTrailer-7) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", MaxTrailer-5) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", MaxTrailer),
	} {
		all = append(all, get+"Transfer-Encoding: chunked\r\n\r\n"+body+second)
	}
	for _, line := range []string{
		"GET / HTTP/1.1", "GET / HTTP/1.0", "GET / HTTP/1.2", "GET / HTTP/0.9", "GET / HTTP/2.0", "GET / HTTP/1.10", "GET / HTTP/1.1 ", "GET / HTTP/1.1\t", "GET /", "GET", "GET / http/1.1", "GET / HTTP/1.", "GET / HTTP/1.x", "GET / HTTP /1.1", "GET / ICAP/1.0",
		"GET  / HTTP/1.1", "GET\t/ HTTP/1.1", " GET / HTTP/1.1", "GET /a b HTTP/1.1", "GET /\x00 HTTP/1.1", "GET /\r HTTP/1.1", "G(T / HTTP/1.1", "GET\x00 / HTTP/1.1", "\rGET / HTTP/1.1", "\r\rGET / HTTP/1.1", "\r\nGET / HTTP/1.1", "\n\r\n\nGET / HTTP/1.1", "\r\r\nGET / HTTP/1.1",
		"PRI * HTTP/2.0", "OPTIONS * HTTP/1.1", "CONNECT h:443 HTTP/1.1", "GET http://other/ HTTP/1.1", "GET http://h@other/ HTTP/1.1", "GET //other/ HTTP/1.1", "GET h HTTP/1.1", "GET /#x HTTP/1.1", "GET /\x80\xff HTTP/1.1",
	} {
		for _, end := range []string{"\r\n", "\n", "\r\r\n"} {
			all = append(all, line+end+"Host: h"+end+end+second)
		}
	}
	for _, host := range []string{"h.", "h:", "h:80", "h:080", "u@h", "h/x", "h?x", "h,i", "h i", "", "[::1]", "[::1", "h\\i", "H", "%68"} {
		all = append(all, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"+second, "GET http://other/ HTTP/1.1\r\nHost: "+host+"\r\n\r\n"+second)
	}
	return append(all,
		"GET / HTTP/1.1\r\nHost: h\n\r\n"+second, "GET / HTTP/1.1\nHost: h\r\n\n"+second, "GET / HTTP/1.1\r\n\r\n"+second, "GET / HTTP/1.0\r\n\r\n"+second, "\r\n", "\r", "\n", "", "G",
		"GET / HTTP/1.1\r\nX: "+strings.Repeat("x", MaxRequestHead), get+"X: "+strings.Repeat("x", MaxRequestHead-len(get)-7)+"\r\n\r\n"+second, get+"X: "+strings.Repeat("x", MaxRequestHead-len(get)-6)+"\r\n\r\n"+second,
		get+strings.Repeat("x:\r\n", MaxFields-1)+"\r\n"+second, get+strings.Repeat("x:\r\n", MaxFields)+"\r\n"+second, get+"Connection: "+strings.Repeat("x,", MaxOptions-1)+"x\r\n\r\n"+second, get+"Connection: "+strings.Repeat("x,", MaxOptions)+"x\r\n\r\n"+second,
	)
}
