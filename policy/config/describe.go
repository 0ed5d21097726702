// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Describe says what the rule does besides choosing where a request goes, in the
// order in which it happens. Whatever changes what it does changes the text.
func (r *HTTPRule) Describe() []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if f := r.Fault; f != nil {
		out = append(out, f.describe()...)
	}
	if x := r.Redirect; x != nil {
		add("redirect with %d%s", x.Code, x.describe())
	}
	if x := r.DirectResponse; x != nil {
		add("answer %d without an upstream%s", x.Status, bodyText(x.Body))
	}
	if x := r.CORS; x != nil {
		add("CORS policy %s%s", brief(reflect.ValueOf(*x)), r.unrouted())
	}
	if x := r.Rewrite; x != nil {
		out = append(out, x.describe()...)
	}
	out = append(out, r.Headers.Describe()...)
	for _, c := range r.Credentials {
		from := "file " + c.File
		if c.Secret != "" {
			from = fmt.Sprintf("Secret %s, key %s", c.Secret, c.Key)
		}
		add("set request header %q to what is in %s, where TLS is originated; nowhere else", c.Name, from)
	}
	for _, m := range r.Mirrors {
		add("copy %g%% of the requests to %s%s", m.Percent, m.Destination.Describe(), r.unrouted())
	}
	if r.UnknownStatus != 0 {
		add("a destination that nobody declares is answered with %d", r.UnknownStatus)
	}
	if r.Timeout > 0 {
		add("timeout %s, counted from the request; then 504", r.Timeout)
	}
	if r.Retries != nil {
		out = append(out, r.Retries.Describe())
	}
	return out
}

// unrouted says that what is about routes does not act.
func (r *HTTPRule) unrouted() string {
	if len(r.Route) > 0 {
		return ""
	}
	return ": it does not act, the rule has no route"
}

func (f *Fault) describe() []string {
	var out []string
	if f.Delay > 0 {
		out = append(out, fmt.Sprintf("delay %s for %g%% of the requests", f.Delay, f.DelayPercent))
	}
	var with []string
	if f.AbortStatus != 0 {
		with = append(with, strconv.Itoa(f.AbortStatus))
	}
	if f.AbortGRPC >= 0 {
		with = append(with, fmt.Sprintf("gRPC status %d", f.AbortGRPC))
	}
	if len(with) > 0 {
		out = append(out, fmt.Sprintf("abort with %s for %g%% of the requests", strings.Join(with, ", "), f.AbortPercent))
	}
	return out
}

// describe says what the redirect changes of the URL.
func (x *Redirect) describe() string {
	var out []string
	for _, f := range [...]struct{ what, value string }{
		{"path", x.URI}, {"matched prefix", x.PrefixRewrite}, {"authority", x.Authority}, {"scheme", x.Scheme},
	} {
		if f.value != "" {
			out = append(out, fmt.Sprintf("%s %q", f.what, f.value))
		}
	}
	if x.Port != 0 {
		out = append(out, fmt.Sprintf("port %d", x.Port))
	}
	if x.DerivePort != "" {
		out = append(out, "port "+x.DerivePort)
	}
	if len(out) == 0 {
		return ""
	}
	return " to " + strings.Join(out, ", ")
}

// maxBody is how many bytes of a direct response are written out.
const maxBody = 64

// bodyText is a body, or how it begins, with what tells it from others.
func bodyText(body []byte) string {
	switch {
	case len(body) == 0:
		return ""
	case len(body) <= maxBody:
		return fmt.Sprintf(": %q", body)
	}
	return fmt.Sprintf(": %q... (%d bytes, SHA-256 %x)", body[:maxBody], len(body), sha256.Sum256(body))
}

func (x *Rewrite) describe() []string {
	var out []string
	if x.URI != "" {
		out = append(out, fmt.Sprintf("rewrite the matched path to %q", x.URI))
	}
	if x.RegexMatch != "" || x.RegexRewrite != "" {
		out = append(out, fmt.Sprintf("rewrite the path from regex %q to %q", x.RegexMatch, x.RegexRewrite))
	}
	if x.Authority != "" {
		out = append(out, fmt.Sprintf("rewrite the authority to %q", x.Authority))
	}
	return out
}

// Describe says what is tried again, and how often.
func (x *Retries) Describe() string {
	on := "where it is safe"
	if x.On != nil {
		on = "on " + strings.Join(x.On, ",")
	}
	out := fmt.Sprintf("%d retries %s", x.Attempts, on)
	switch x.Attempts {
	case 0:
		out = "no retries"
	case 1:
		out = "1 retry " + on
	}
	if len(x.Codes) > 0 {
		out += fmt.Sprintf(" of %v", x.Codes)
	}
	if x.PerTryTimeout > 0 {
		out += fmt.Sprintf(", %s per try", x.PerTryTimeout)
	}
	if x.Backoff > 0 {
		out += fmt.Sprintf(", backoff from %s", x.Backoff)
	}
	if x.AnyHost {
		out += ", to any endpoint"
	}
	if x.Remote {
		out += ", to other priorities after every second"
	}
	return out
}

// Describe lists the header operations in the order in which they act.
func (h *Headers) Describe() []string {
	if h == nil {
		return nil
	}
	return append(h.Request.describe("request"), h.Response.describe("response")...)
}

func (o *HeaderOps) describe(side string) []string {
	var out []string
	for _, h := range o.Remove {
		out = append(out, fmt.Sprintf("remove %s header %q", side, h))
	}
	for _, h := range o.Set {
		out = append(out, fmt.Sprintf("set %s header %q to %q", side, h.Name, h.Value))
	}
	for _, h := range o.Add {
		out = append(out, fmt.Sprintf("add %s header %q: %q", side, h.Name, h.Value))
	}
	return out
}

// Describe is the destination as the rule names it.
func (d *Destination) Describe() string {
	out := d.Host
	if d.Port != 0 {
		out += fmt.Sprintf(" port %d", d.Port)
	}
	if d.Subset != "" {
		out += fmt.Sprintf(" subset %q", d.Subset)
	}
	return out
}

// Describe lists what of the policy is set.
func (t *TrafficPolicy) Describe() string { return brief(reflect.ValueOf(*t)) }

// How says how TLS is originated, for people: whom it trusts, whom it expects and who
// it says that it is. It names places of keys, and has none.
func (t *ClientTLS) How() string {
	from := func(file, what string) string {
		switch {
		case t.Secret != "":
			return what + " of Secret " + t.Secret
		case file != "":
			return what + " of " + file
		}
		return ""
	}
	out := "TLS is originated (" + t.Mode.String() + ")"
	switch trusted := from(t.CA, "the CA"); {
	case t.InsecureSkipVerify:
		out += ", the server is NOT verified (insecureSkipVerify)"
	case trusted == "":
		out += ", trusting the system's CAs"
	default:
		out += ", trusting " + trusted
	}
	switch {
	case t.InsecureSkipVerify:
	case len(t.SubjectAltNames) > 0:
		out += ", for a server that is " + strings.Join(t.SubjectAltNames, " or ")
	case t.SNI != "":
		out += ", for a server that is " + t.SNI
	default:
		out += ", for a server that is the host that was asked for"
	}
	if t.SNI != "" {
		out += ", SNI " + t.SNI
	}
	if cert := from(t.Certificate, "the client certificate"); t.Mode == TLSMutual && cert != "" {
		out += ", with " + cert
	}
	return out
}

// brief writes the fields of a struct that are set.
func brief(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer:
		return brief(v.Elem())
	case reflect.Struct:
		var out []string
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				out = append(out, v.Type().Field(i).Name+"="+brief(f))
			}
		}
		return "{" + strings.Join(out, " ") + "}"
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprint(v.Interface())
}
