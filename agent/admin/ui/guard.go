// SPDX-License-Identifier: Apache-2.0

package ui

import (
	"net/http"
	"strings"
)

// policy is the Content-Security-Policy (W3C CSP level 3). Scripts and styles are files
// of the page alone; Trusted Types take the ways by which text becomes markup; nobody
// frames the page, and no form leaves it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// guarded tells the browser of every answer what it may do with it.
func guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy":      policy,
			"X-Content-Type-Options":       "nosniff",
			"X-Frame-Options":              "DENY",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control":                "no-store",
		} {
			w.Header().Set(name, value)
		}
		h.ServeHTTP(w, r)
	})
}

// SameOrigin refuses what a page of another origin has a browser ask (Fetch Metadata,
// https://www.w3.org/TR/fetch-metadata/; RFC 6454). Programs that are no browsers send
// none of these fields. A link may lead to the page itself, which says nothing: what it
// shows it asks for by itself. No answer is taken for what its type does not say.
func SameOrigin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if foreign(r) {
			http.Error(w, "a page of another site asked for this; open the address by itself", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func foreign(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" && origin != "http://"+r.Host {
		return true
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	link := r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	return !link || !strings.HasPrefix(r.URL.Path+"/", Path) || r.URL.Path == pathFlows
}
