// SPDX-License-Identifier: Apache-2.0

package message

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/egressd/egressd/policy"
)

// RedirectCode is the status of a redirect.
func RedirectCode(r *policy.Redirect) int {
	if r.Code == 0 {
		return http.StatusMovedPermanently
	}
	return r.Code
}

// RedirectLocation builds the Location of a redirect, as Envoy's newUri does.
func RedirectLocation(r *policy.Redirect, m *policy.HTTPMatch, req *policy.Request, rawQuery string) string {
	scheme := req.Scheme
	if r.Scheme != "" {
		scheme = r.Scheme
	}
	port := redirectPort(r, req, scheme)
	host := r.Authority
	if host == "" {
		host = requestHost(r, req, scheme, port)
	}
	path := req.Path
	switch {
	case r.URI != "":
		path = r.URI
	case r.PrefixRewrite != "":
		path = m.ReplacePrefix(req.Path, r.PrefixRewrite)
	}
	// A query of the rule's own takes the place of the request's.
	if rawQuery != "" && !strings.Contains(r.URI, "?") {
		path += "?" + rawQuery
	}
	return scheme + "://" + host + port + path
}

// redirectPort is ":n" when the rule sets a port that the scheme doesn't imply.
func redirectPort(r *policy.Redirect, req *policy.Request, scheme string) string {
	n := r.Port
	if r.DerivePort == "FROM_REQUEST_PORT" {
		n = req.Port
	}
	if n == 0 || n == 80 && scheme == "http" || n == 443 && scheme == "https" {
		return ""
	}
	return ":" + strconv.Itoa(int(n))
}

// requestHost is the request's authority; its port goes when the rule says
// which one it is, or when it was the old scheme's default and the scheme
// changes.
func requestHost(r *policy.Redirect, req *policy.Request, scheme, port string) string {
	host := req.Authority
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.HasSuffix(host, "]") {
		return host
	}
	if port != "" || r.Port != 0 || r.DerivePort == "FROM_REQUEST_PORT" || scheme != req.Scheme && host[i:] == ":80" {
		return host[:i]
	}
	return host
}
