// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/policy"
)

// policyFlags are the flags of the commands that put a policy in force.
type policyFlags struct {
	config    []string
	short     allowFlags
	mode      string
	servers   []string
	stateDir  string
	pinDir    string
	logLevel  string
	logFormat string
	journal   bool // who reads the log is the journal of systemd
	allow     []string
	creds     []string
	cluster   clusterFlags
	empty     bool
	noConfig  bool // files are not all of the policy
	dns       dnsFlags
	limits    limitFlags
	tables    tableFlags
}

func (f *policyFlags) register(cmd *cobra.Command, level string) {
	fs := cmd.Flags()
	listVar(fs, &f.config, "config", "policy file or directory of YAML; may be given several times")
	fs.StringVar(&f.mode, "mode", "enforce", "enforce: deny is deny; audit: a denial is logged and let pass")
	listVar(fs, &f.servers, "dns-server", "trusted DNS server as ADDRESS or ADDRESS:PORT (default: those of /etc/resolv.conf, whose changes take effect)")
	fs.BoolVar(&f.empty, "allow-empty-policy", false, "let policy files without objects, or an empty directory, replace a policy, so that everything is denied (default: the last policy stays); without --config everything is denied")
	f.dns.register(cmd)
	f.limits.register(cmd)
	f.tables.register(cmd)
	f.short.register(cmd)
	registerAllow(cmd, &f.allow)
	fs.StringSliceVar(&f.creds, "credentials-dir", []string{agent.DefaultCredentials}, "directory below which policy files on disk may name private keys and tokens; may be given several times")
	f.cluster.register(cmd)
	fs.StringVar(&f.logLevel, "log-level", level, "debug, info, warn or error")
	fs.StringVar(&f.logFormat, "log-format", "auto", "text, json, or auto: text, and for the journal of systemd lines with their priority and without time and level, which the journal keeps")
	registerDirs(cmd, &f.stateDir, &f.pinDir)
}

// registerAllow adds the flag of the commands that read a policy.
func registerAllow(cmd *cobra.Command, list *[]string) {
	listVar(cmd.Flags(), list, "allow-endpoint", "node-local endpoint that the policy may lead to: unix:///PATH, ADDRESS, CIDR or ADDRESS:PORT (loopback, link-local, metadata services); may be given several times")
}

// allowed reads --allow-endpoint.
func allowed(list []string) ([]policy.AllowedEndpoint, error) {
	var out []policy.AllowedEndpoint
	for _, s := range list {
		a, err := policy.ParseAllowedEndpoint(s)
		if err != nil {
			return nil, usageError{fmt.Errorf("--allow-endpoint: %w", err)}
		}
		out = append(out, a)
	}
	return out, nil
}

// registerDirs adds the flags for the places that a daemon and the commands
// that talk to it must agree on.
func registerDirs(cmd *cobra.Command, state, pins *string) {
	if state != nil {
		cmd.Flags().StringVar(state, "state-dir", agent.DefaultStateDir, "directory of the admin socket and the state")
	}
	if pins != nil {
		cmd.Flags().StringVar(pins, "pin-dir", agent.DefaultPinRoot, "directory for the pins of programs and tables, on a bpf filesystem")
	}
}

// options turns the flags into what the agent takes.
func (f *policyFlags) options(e env) (agent.Options, error) {
	o := agent.Options{Config: f.config, Allow: f.short.allow(), AllowEmptyPolicy: f.empty, Version: version, CredentialDirs: f.creds}
	if _, err := f.short.read(); err != nil {
		return o, err
	}
	if len(f.config) == 0 && o.Allow.Empty() && !f.noConfig && !f.empty && f.mode != policy.Audit.String() {
		return o, usageError{fmt.Errorf("say what is allowed with --allow HOST, or give the policy with --config FILE or --config DIRECTORY; --mode audit needs none, and learns one; --allow-empty-policy without one denies everything")}
	}
	if slices.Contains(f.config, "-") {
		return o, usageError{fmt.Errorf("--config - is for check and explain: what puts a policy in force reads it again; name a file or a directory")}
	}
	var err error
	if o.Mode, err = parseMode(f.mode, policy.Enforce, policy.Audit); err != nil {
		return o, err
	}
	if o.AllowEndpoints, err = allowed(f.allow); err != nil {
		return o, err
	}
	if o.Cluster, o.FindCluster, err = f.cluster.read(); err != nil {
		return o, err
	}
	if o.Log, err = f.logger(e); err != nil {
		return o, err
	}
	if err := errors.Join(f.dns.options(&o), f.tables.options(&o)); err != nil {
		return o, usageError{err}
	}
	if err := f.limits.options(&o); err != nil {
		return o, usageError{err}
	}
	for _, s := range f.servers {
		a, err := serverAddr(s)
		if err != nil {
			return o, usageError{err}
		}
		o.DNSServers = append(o.DNSServers, a)
	}
	if os.Geteuid() != 0 {
		return o, fmt.Errorf("egressd needs root to load kernel programs; run it with sudo")
	}
	return o, nil
}

// parseMode reads --mode.
func parseMode(s string, modes ...policy.Mode) (policy.Mode, error) {
	var names []string
	for _, m := range modes {
		if m.String() == s {
			return m, nil
		}
		names = append(names, m.String())
	}
	last := len(names) - 1
	return 0, usageError{fmt.Errorf("--mode is %s or %s, not %q", strings.Join(names[:last], ", "), names[last], s)}
}

func serverAddr(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("--dns-server %q is not an ADDRESS or ADDRESS:PORT", s)
	}
	return a, nil
}

// labels parses "key=value,key=value".
func labels(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	out := map[string]string{}
	for _, pair := range strings.Split(s, ",") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return nil, usageError{fmt.Errorf("%q is not a label; write key=value", pair)}
		}
		out[k] = v
	}
	return out, nil
}

// output is the -o flag.
type output string

func (o *output) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP((*string)(o), "output", "o", "text", "text or json")
}

func (o output) json() (bool, error) {
	switch o {
	case "text":
		return false, nil
	case "json":
		return true, nil
	}
	return false, usageError{fmt.Errorf("-o is text or json, not %q", string(o))}
}
