// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"iter"
	"regexp"
	"strings"
	"unicode"

	"github.com/egressd/egressd/policy"
)

var (
	upstream = regexp.MustCompile(`^(\S+:\d+) (\S+) ([A-Z_]+)(.*)$`)
	ruled    = regexp.MustCompile(`^(.*?) traffic (\{.*\}) \((\w+ \S+/\S+)\)(.*)$`)
	absent   = regexp.MustCompile(`^(.*) without (.*)$`)
	failover = regexp.MustCompile(`^ failover (.*)$`)
	options  = regexp.MustCompile(`^(?: target-port (\d+))?(?: subset (\S+))?(.*)$`)
)

// upstreamFacts reads an upstream: where it is, how it is found, and what a
// DestinationRule says of it. suffix is behind each subject; of as in fact.
func upstreamFacts(text, suffix, of string) (out []fact) {
	add := func(subject, value string) {
		if value = strings.TrimSpace(value); value != "" {
			out = append(out, fact{subject: subject + suffix, value: value, of: of})
		}
	}
	m := upstream.FindStringSubmatch(text)
	if m == nil {
		add("the destination", text)
		return out
	}
	add("the upstream", m[1])
	add("the protocol to the upstream", m[2])
	add("the resolution", m[3])
	rest := m[4]
	var rules []string
	if rules = ruled.FindStringSubmatch(rest); rules != nil {
		rest = rules[1]
	}
	if m := absent.FindStringSubmatch(rest); m != nil {
		rest = m[1]
		add("what is refused because it is missing", m[2])
	}
	o := options.FindStringSubmatch(rest)
	add("the port of the endpoints", o[1])
	add("the subset", o[2])
	endpoints := strings.TrimSpace(o[3])
	if endpoints == "" && m[3] != "NONE" {
		endpoints = "empty, so that nothing arrives"
	}
	add("the list of endpoints", endpoints)
	if rules != nil {
		add("the object with the traffic policy", rules[3])
		out = append(out, settingFacts("", rules[2], suffix, of)...)
		if f := failover.FindStringSubmatch(rules[4]); f != nil {
			add("the order of failover", f[1])
		}
	}
	return out
}

// subjects are settings of DestinationRules and of CORS, in words. What is not among
// them is named as in the objects.
var subjects = map[string]string{
	"TLS.Mode":                   "the TLS mode to the upstream",
	"TLS.SNI":                    "the SNI that is sent to the upstream",
	"TLS.CA":                     "the file of CAs that the upstream's certificate must be of",
	"TLS.Certificate":            "the file of the client certificate",
	"TLS.Key":                    "the file of the client certificate's key",
	"TLS.Secret":                 "the Secret with certificates",
	"TLS.SubjectAltNames":        "the list of names that the upstream's certificate may have",
	"TLS.InsecureSkipVerify":     "insecureSkipVerify, by which the upstream is not verified,",
	"LoadBalancer.Simple":        "the way in which endpoints are chosen",
	"LoadBalancer.Hash.Header":   "the header by which endpoints are chosen",
	"LoadBalancer.Hash.Query":    "the parameter by which endpoints are chosen",
	"Outlier.Consecutive5xx":     "the number of 5xx in a row after which an endpoint is ejected",
	"Outlier.Interval":           "the time between the sweeps that eject endpoints",
	"Outlier.BaseEjection":       "the least time for which an endpoint is ejected",
	"Pool.MaxConnections":        "the most connections to the upstream",
	"Pool.ConnectTimeout":        "the timeout of a connection to the upstream",
	"Pool.TCPIdleTimeout":        "the idle timeout of TCP connections",
	"Pool.HTTPIdleTimeout":       "the idle timeout of HTTP connections",
	"Pool.MaxPendingRequests":    "the most requests that wait for a connection",
	"Pool.MaxRequests":           "the most requests at one time",
	"Pool.MaxRequestsPerConn":    "the most requests in a connection",
	"Pool.MaxRetries":            "the most retries at one time",
	"Pool.MaxConnectionDuration": "the most time that a connection lasts",
	"CORS.AllowOrigins":          "the list of origins that CORS allows",
	"CORS.AllowMethods":          "the list of methods that CORS allows",
	"CORS.AllowHeaders":          "the list of headers that CORS allows",
	"CORS.ExposeHeaders":         "the list of headers that CORS exposes",
	"CORS.MaxAge":                "the time for which an answer of CORS may be kept",
	"ProxyProtocol":              "the version of the PROXY protocol to the upstream",
}

// settingFacts reads settings in braces, {A={B=1 C="x"} D=2}, each by its path.
func settingFacts(path, text, suffix, of string) (out []fact) {
	inner, ok := strings.CutPrefix(text, "{")
	end := -1
	if ok {
		end = closing(text)
	}
	if end < 0 {
		subject := subjects[path]
		if subject == "" {
			subject = "the setting " + inWords(path)
		}
		return []fact{{subject: subject + suffix, value: origins(text), of: of}}
	}
	for _, field := range fields(inner[:end-1]) {
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			return []fact{{subject: "the setting " + inWords(path) + suffix, value: text, of: of}}
		}
		if path != "" {
			name = path + "." + name
		}
		out = append(out, settingFacts(name, value, suffix, of)...)
	}
	if behind := strings.TrimSpace(text[end+1:]); behind != "" {
		out = append(out, fact{form: line, value: behind})
	}
	return out
}

// matched is a policy.StringMatch as fmt writes it.
var matched = regexp.MustCompile(`\{(\d) ([^{}]*)\}`)

// origins says of texts that are matched how they are.
func origins(text string) string {
	return matched.ReplaceAllStringFunc(text, func(one string) string {
		m := matched.FindStringSubmatch(one)
		switch m[1] {
		case fmt.Sprint(uint8(policy.MatchExact)):
			return m[2]
		case fmt.Sprint(uint8(policy.MatchPrefix)):
			return m[2] + "*"
		case fmt.Sprint(uint8(policy.MatchRegex)):
			return "(regex) " + m[2]
		}
		return one
	})
}

// closing is where the brace ends that text begins with; -1: nowhere.
func closing(text string) int {
	for i, depth := range unquoted(text, "{[", "}]") {
		if depth == 0 {
			return i
		}
	}
	return -1
}

// fields splits at the spaces that are in no quotes, braces or brackets.
func fields(text string) (out []string) {
	start := 0
	for i, depth := range unquoted(text, "{[(", "}])") {
		if text[i] == ' ' && depth == 0 {
			out = append(out, text[start:i])
			start = i + 1
		}
	}
	if start < len(text) {
		out = append(out, text[start:])
	}
	return out
}

// unquoted are the places of the bytes that are in no quotes, and in how many pairs of
// what opens and ends each is; those themselves are outside of their pair when it ends.
func unquoted(text, opens, ends string) iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		depth, quoted := 0, false
		for i := 0; i < len(text); i++ {
			switch c := text[i]; {
			case quoted && c == '\\':
				i++
				continue
			case c == '"':
				quoted = !quoted
				continue
			case quoted:
				continue
			case strings.IndexByte(opens, c) >= 0:
				depth++
			case strings.IndexByte(ends, c) >= 0:
				depth--
			}
			if !yield(i, depth) {
				return
			}
		}
	}
}

// inWords writes a path as objects have it: "LoadBalancer.Hash" is loadBalancer.hash.
func inWords(path string) string {
	parts := strings.Split(path, ".")
	for i, p := range parts {
		if r := []rune(p); len(r) > 1 && !unicode.IsUpper(r[1]) {
			r[0] = unicode.ToLower(r[0])
			parts[i] = string(r)
		}
	}
	return strings.Join(parts, ".")
}
