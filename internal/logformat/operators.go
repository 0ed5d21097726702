// SPDX-License-Identifier: Apache-2.0

package logformat

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// operators are those that there are, and what says what is wrong with an argument.
var operators = map[string]func(name, arg string) error{
	"BYTES_RECEIVED":                         noArgument,
	"BYTES_SENT":                             noArgument,
	"CONNECTION_TERMINATION_DETAILS":         noArgument,
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS":       noArgument,
	"DOWNSTREAM_LOCAL_ADDRESS":               noArgument,
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":  noArgument,
	"DOWNSTREAM_LOCAL_PORT":                  noArgument,
	"DOWNSTREAM_REMOTE_ADDRESS":              noArgument,
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": noArgument,
	"DOWNSTREAM_REMOTE_PORT":                 noArgument,
	"DURATION":                               noArgument,
	"EGRESSD":                                oneOf("COMMAND", "DETAIL", "KIND", "LAYER", "PID", "REASON", "RETRIES", "RULE", "UID", "VERDICT", "WORKLOAD"),
	"GRPC_STATUS_NUMBER":                     noArgument,
	"HOSTNAME":                               noArgument,
	"PROTOCOL":                               noArgument,
	"REQ":                                    fieldName,
	"REQUESTED_SERVER_NAME":                  noArgument,
	"REQ_WITHOUT_QUERY":                      fieldName,
	"RESP":                                   fieldName,
	"RESPONSE_CODE":                          noArgument,
	"RESPONSE_CODE_DETAILS":                  noArgument,
	"RESPONSE_FLAGS":                         noArgument,
	"ROUTE_NAME":                             noArgument,
	"START_TIME":                             timeFormat,
	"TRACE_ID":                               noArgument,
	"TRAILER":                                fieldName,
	"UPSTREAM_CLUSTER":                       noArgument,
	"UPSTREAM_CLUSTER_RAW":                   noArgument,
	"UPSTREAM_HOST":                          noArgument,
	"UPSTREAM_LOCAL_ADDRESS":                 noArgument,
	"UPSTREAM_REQUEST_ATTEMPT_COUNT":         noArgument,
	"UPSTREAM_TRANSPORT_FAILURE_REASON":      noArgument,
}

// Operators are the names of the command operators, sorted.
func Operators() []string { return slices.Sorted(maps.Keys(operators)) }

// takesField says whether the argument names a field of a message, and maybe another one.
func takesField(name string) bool {
	return slices.Contains([]string{"REQ", "REQ_WITHOUT_QUERY", "RESP", "TRAILER"}, name)
}

// foreign says what to write in the place of what people have of Envoy's own state; "":
// it is not that.
func foreign(name string) string {
	switch name {
	case "FILTER_STATE", "UPSTREAM_FILTER_STATE", "DYNAMIC_METADATA", "CLUSTER_METADATA", "UPSTREAM_METADATA", "UPSTREAM_CLUSTER_METADATA", "METADATA", "CEL":
		return "write %EGRESSD(WORKLOAD)%, %EGRESSD(RULE)% or %EGRESSD(REASON)% for what is known of a flow"
	case "DOWNSTREAM_PEER_URI_SAN", "DOWNSTREAM_PEER_SUBJECT", "DOWNSTREAM_TLS_VERSION", "DOWNSTREAM_TLS_CIPHER":
		return "write %REQUESTED_SERVER_NAME% for what is logged of TLS"
	}
	return ""
}

func noArgument(name, arg string) error {
	if arg != "" {
		return fmt.Errorf("%%%s%% takes no argument", name)
	}
	return nil
}

func oneOf(words ...string) func(name, arg string) error {
	return func(name, arg string) error {
		if !slices.Contains(words, arg) {
			return fmt.Errorf("%%%s(%s)%%: the argument is one of %s", name, arg, strings.Join(words, ", "))
		}
		return nil
	}
}

// secret are fields that no line shows: who reads a log would have what they open.
var secret = []string{"Authorization", "Cookie", "Proxy-Authorization", "Set-Cookie"}

func fieldName(name, arg string) error {
	first, second, two := strings.Cut(arg, "?")
	for _, n := range []string{first, second} {
		if n == "" && (two || n == first) {
			return fmt.Errorf("%%%s(%s)%%: name a field, or two as in %%%s(X?Y)%%", name, arg, name)
		}
		if slices.ContainsFunc(secret, func(s string) bool { return strings.EqualFold(s, n) }) {
			return fmt.Errorf("%%%s(%s)%%: %s has credentials, which no log shows", name, arg, n)
		}
	}
	return nil
}
