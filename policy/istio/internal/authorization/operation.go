// SPDX-License-Identifier: Apache-2.0

package authorization

import (
	"fmt"
	"slices"
	"strings"

	security "istio.io/api/security/v1beta1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// operation translates what a rule is about.
func (a *auth) operation(at *strictyaml.Node, number int, o *security.Operation) *policy.AuthOperation {
	if len(o.Ports)+len(o.Methods)+len(o.Paths)+len(o.Hosts)+len(o.NotPorts)+len(o.NotMethods)+len(o.NotPaths)+len(o.NotHosts) == 0 {
		a.Errorf(at, "`to.operation` must not be empty, found at rule %d", number)
	}
	return &policy.AuthOperation{
		Hosts:      a.hosts(at, "hosts", "Hosts", o.Hosts),
		NotHosts:   a.hosts(at, "notHosts", "NotHosts", o.NotHosts),
		Ports:      a.ports(at, "ports", o.Ports),
		NotPorts:   a.ports(at, "notPorts", o.NotPorts),
		Methods:    a.values(at, "methods", "Methods", o.Methods),
		NotMethods: a.values(at, "notMethods", "NotMethods", o.NotMethods),
		Paths:      a.paths(at, "paths", "Paths", o.Paths),
		NotPaths:   a.paths(at, "notPaths", "NotPaths", o.NotPaths),
	}
}

func (a *auth) hosts(at *strictyaml.Node, key, label string, values []string) []policy.ValueMatch {
	out := a.values(at, key, label, values)
	for i := range out {
		out[i].Value = strings.ToLower(out[i].Value)
	}
	return out
}

func (a *auth) ports(at *strictyaml.Node, key string, values []string) []uint16 {
	var out []uint16
	for i, s := range values {
		n, err := authPort(s)
		if err != nil {
			a.SayCode(code.FormAuthorization, strictyaml.Error, at.At(key, i), "%s", err)
			continue
		}
		out = append(out, n)
	}
	return out
}

// The operators of path templates.
const (
	oneSegment = "{*}"
	allTheRest = "{**}"
)

func isTemplate(path string) bool {
	return strings.Contains(path, oneSegment) || strings.Contains(path, allTheRest)
}

func (a *auth) paths(at *strictyaml.Node, key, label string, values []string) []policy.PathMatch {
	a.empty(at, key, label, values)
	var out []policy.PathMatch
	for i, s := range values {
		if !isTemplate(s) && strings.ContainsAny(s, "{}") {
			a.Errorf(at.At(key, i), "invalid or unsupported path %s, found in %s. Contains '{' or '}' beyond a supported path template", s, label)
			continue
		}
		if !isTemplate(s) {
			out = append(out, policy.PathMatch{ValueMatch: a.value(at.At(key, i), key, s)})
			continue
		}
		if err := checkTemplate(s); err != nil {
			a.Errorf(at.At(key, i), "invalid or unsupported path template, found in %s: %s", label, err)
			continue
		}
		out = append(out, policy.PathMatch{Template: s})
	}
	return out
}

// checkTemplate checks a path template (istio.io/api security/v1beta1,
// Operation.paths): operators are whole segments, {**} is the last one, and
// there is no other '*' or brace.
func checkTemplate(s string) error {
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("%q does not start with '/'", s)
	}
	last := false
	for segment := range strings.SplitSeq(s[1:], "/") {
		switch {
		case segment == oneSegment || segment == allTheRest:
			if last {
				return fmt.Errorf("{**} is not the last operator of %q", s)
			}
			last = segment == allTheRest
		case strings.ContainsAny(segment, "*{}"):
			return fmt.Errorf("%q in %q is neither text nor {*} nor {**}", segment, s)
		}
	}
	return nil
}

// The keys of `when` that a connection's start can answer.
const (
	keyHeaders     = "request.headers"
	keyNamespace   = "source.namespace"
	keyPrincipal   = "source.principal"
	keyAccount     = "source.serviceAccount"
	keySourceIP    = "source.ip"
	keyRemoteIP    = "remote.ip"
	keyDestination = "destination.ip"
	keyPort        = "destination.port"
	keySNI         = "connection.sni"
)

// condition translates one entry of `when`; nil after an error.
func (a *auth) condition(at *strictyaml.Node, c *security.Condition) *policy.AuthCondition {
	if c.Key == "" {
		a.Errorf(at, "`key` must not be empty")
		return nil
	}
	if len(c.Values)+len(c.NotValues) == 0 {
		a.Errorf(at, "at least one of `values` or `notValues` must be set for key %s", c.Key)
	}
	out := &policy.AuthCondition{Key: c.Key, Values: slices.Clone(c.Values), NotValues: slices.Clone(c.NotValues)}
	if err := a.conditionKey(out); err != nil {
		a.Errorf(at.At("key"), "`key` %s: %s", c.Key, err)
		return nil
	}
	for i := range out.Values {
		if err := a.conditionValue(out.Key, &out.Values[i]); err != nil {
			a.Errorf(at.At("values", i), "invalid `value` for `key` %s: %s", c.Key, err)
		}
	}
	for i := range out.NotValues {
		if err := a.conditionValue(out.Key, &out.NotValues[i]); err != nil {
			a.Errorf(at.At("notValues", i), "invalid `notValue` for `key` %s: %s", c.Key, err)
		}
	}
	return out
}

// conditionKey checks the key of a condition; header names get lower case.
func (a *auth) conditionKey(c *policy.AuthCondition) error {
	switch c.Key {
	case keyNamespace, keyPrincipal, keyAccount, keySourceIP, keyRemoteIP, keyDestination, keyPort, keySNI:
		return nil
	case "source.trustDomain":
		return fmt.Errorf("not supported in `when`; write it as trustDomains in `from`")
	case "destination.namespace":
		return fmt.Errorf("attribute %s is replaced by the metadata.namespace", c.Key)
	case "destination.name", "destination.user":
		return fmt.Errorf("deprecated attribute %s: only supported in v1alpha1", c.Key)
	}
	switch {
	case strings.HasPrefix(c.Key, keyHeaders):
		name, ok := strings.CutPrefix(c.Key, keyHeaders+"[")
		name, end := strings.CutSuffix(name, "]")
		if !ok || !end || name == "" {
			return fmt.Errorf("bad key (%s): should have format a[b]", c.Key)
		}
		c.Key = keyHeaders + "[" + strings.ToLower(name) + "]"
		return nil
	case strings.HasPrefix(c.Key, "request.auth."):
		return fmt.Errorf("not supported: egressd does not look into JSON web tokens")
	case strings.HasPrefix(c.Key, "experimental.envoy.filters."):
		return fmt.Errorf("not supported: it is about filters of Envoy, which does not run here")
	case strings.HasPrefix(c.Key, "destination.labels"):
		return fmt.Errorf("attribute %s is replaced by the workload selector", c.Key)
	}
	known := []string{keyNamespace, keyPrincipal, keyAccount, keySourceIP, keyRemoteIP, keyDestination, keyPort, keySNI, keyHeaders + "[name]"}
	return fmt.Errorf("unknown attribute: %s%s", c.Key, strictyaml.DidYouMean(c.Key, known))
}

// conditionValue checks a value, and makes it what it is compared with.
func (a *auth) conditionValue(key string, v *string) error {
	if *v == "" {
		return fmt.Errorf("empty value not allowed, found in %s", key)
	}
	var err error
	switch key {
	case keySourceIP, keyRemoteIP, keyDestination:
		_, err = ipBlock(*v)
	case keyPort:
		_, err = authPort(*v)
	case keyAccount:
		*v, err = a.account(key, *v)
	case keySNI:
		*v = strings.ToLower(*v)
	}
	return err
}
