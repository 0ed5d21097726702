// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// token is a part of PromQL: a string, what stands in brackets, a number or duration, a
// variable of Grafana, a word, or anything else.
var token = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|'(?:[^'\\\\]|\\\\.)*'|`[^`]*`|\\[[^\\]]*\\]|[0-9][0-9a-zA-Z.]*|\\$\\{?[a-zA-Z_]+\\}?|[a-zA-Z_:][a-zA-Z0-9_:]*|\\s+|.")

// Words of PromQL that are no metrics.
var (
	aggregations = []string{"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "stddev", "stdvar", "group", "count_values"}
	grouping     = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	operators    = []string{"and", "or", "unless", "offset", "bool", "atan2", "inf", "nan"}
)

// namesOf are the metrics and the labels that an expression of PromQL names.
func namesOf(expr string) (metrics, labels []string) {
	var tokens []string
	for _, t := range token.FindAllString(expr, -1) {
		if strings.TrimSpace(t) != "" {
			tokens = append(tokens, t)
		}
	}
	m, l := map[string]bool{}, map[string]bool{}
	listed := "" // what ends a list of labels that is open; "": none is
	for i, t := range tokens {
		next := ""
		if i+1 < len(tokens) {
			next = tokens[i+1]
		}
		word := regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`).MatchString(t)
		switch {
		case t == "{":
			listed = "}"
		case t == "(" && i > 0 && slices.Contains(grouping, tokens[i-1]):
			listed = ")"
		case t == listed:
			listed = ""
		case listed != "" && word:
			l[t] = true
		case !word, slices.Contains(aggregations, t), slices.Contains(grouping, t), slices.Contains(operators, strings.ToLower(t)), next == "(":
		default:
			m[t] = true
		}
	}
	return slices.Sorted(maps.Keys(m)), slices.Sorted(maps.Keys(l))
}

func TestNamesOf(t *testing.T) {
	for _, c := range []struct{ expr, metrics, labels string }{
		{`up`, "up", ""},
		{`up{job="a{b}, c(d)"} == 0`, "up", "job"},
		{`sum by (a, b) (rate(x_total{l=~"up",m!='y\'z'}[5m])) > 10 * y offset 1d`, "x_total y", "a b l m"},
		{`sum(x) by (a) / on (b) group_left (c) y unless z`, "x y z", "a b c"},
		{`histogram_quantile(0.95, sum by (le) (rate(h_bucket{job=~"$job"}[$__rate_interval])))`, "h_bucket", "job le"},
		{"count(x == 0) or vector(0)", "x", ""},
		{"topk(10, sum without (a) (x)) >= bool 1e3", "x", "a"},
		{"max(a:b:c[10m:1m])", "a:b:c", ""},
	} {
		m, l := namesOf(c.expr)
		if strings.Join(m, " ") != c.metrics || strings.Join(l, " ") != c.labels {
			t.Errorf("%s: metrics %v, labels %v; want %s and %s", c.expr, m, l, c.metrics, c.labels)
		}
	}
}
