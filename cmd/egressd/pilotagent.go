// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/quote"
)

// pilotAgentCommand answers who calls egressd as pilot-agent was called: "pilot-agent
// proxy router --drainDuration 45s". It starts nothing, as a node's policy must not
// come of a guess: it writes the command line of run that does the same, and what
// became of each flag.
func pilotAgentCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:    "proxy [router|sidecar] [FLAGS OF PILOT-AGENT]",
		Short:  "Say how what pilot-agent's command line asks for is written here",
		Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			asked := readPilotAgent(args)
			fmt.Fprintf(e.stderr, "egressd: that is pilot-agent's command line, and nothing was started. What does the same here:\n\n  %s\n\n", quote.Lines(strings.Join(asked.run(), " ")))
			for _, f := range asked.flags {
				fmt.Fprintf(e.stderr, "  %s\n", quote.Lines(f.written()+": "+f.answer()))
			}
			fmt.Fprintln(e.stderr, "\ndocs/PILOT-AGENT.md has them all.")
			return exitError{exitUsage}
		},
	}
}

// askedOfAgent is a command line of pilot-agent.
type askedOfAgent struct {
	role  string
	flags []agentFlagValue
}

// agentFlagValue is a flag as it was given.
type agentFlagValue struct {
	name, value string
	of          *agentFlag // nil: pilot-agent has no such flag
}

// readPilotAgent reads the arguments of "pilot-agent proxy". Flags that it does not
// know pilot-agent ignores.
func readPilotAgent(args []string) (out askedOfAgent) {
	for i := 0; i < len(args); i++ {
		name, ok := strings.CutPrefix(args[i], "--")
		if !ok {
			out.role = cmp.Or(out.role, args[i])
			continue
		}
		f := agentFlagValue{}
		var inline bool
		f.name, f.value, inline = strings.Cut(name, "=")
		f.of = agentFlagNamed(f.name)
		if !inline && (f.of == nil || !f.of.alone) && i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
			i++
			f.value = args[i]
		}
		out.flags = append(out.flags, f)
	}
	return out
}

// run is the command line that does the same; of flags that say one thing the last one
// in the table counts.
func (a askedOfAgent) run() []string {
	out := []string{"egressd", "run", "--config", "/etc/egressd"}
	if a.role == "router" {
		out = append(out, "--gateway-selector", "istio="+strings.TrimPrefix(a.value("serviceCluster", "istio-ingressgateway"), "istio-"))
	}
	byFlag := map[string]string{}
	var order []string
	for i := range agentFlags {
		f := &agentFlags[i]
		if f.flag == "" || !slices.ContainsFunc(a.flags, func(v agentFlagValue) bool { return v.of == f }) {
			continue
		}
		value := a.value(f.name, "")
		if f.write != nil {
			value = f.write(value)
		}
		if byFlag[f.flag] == "" {
			order = append(order, f.flag)
		}
		byFlag[f.flag] = value
	}
	for _, flag := range order {
		if flag == "cluster-domain" {
			if byFlag[flag] == usualDomain {
				continue
			}
			out = append(out, "--cluster-cidr", "auto") // without which run takes no domain
		}
		out = append(out, "--"+flag)
		if v := byFlag[flag]; v != alone {
			out = append(out, v)
		}
	}
	return out
}

// value is what a flag was given last.
func (a askedOfAgent) value(name, without string) string {
	for _, f := range slices.Backward(a.flags) {
		if f.name == name {
			return f.value
		}
	}
	return without
}

func (f agentFlagValue) written() string {
	if f.value == "" {
		return "--" + f.name
	}
	return "--" + f.name + " " + f.value
}

// answer is what becomes of the flag.
func (f agentFlagValue) answer() string {
	switch {
	case f.of == nil:
		return "pilot-agent has no such flag that egressd knows of; it would ignore it, and nothing does it here"
	case f.of.flag == "":
		return f.of.note
	case f.of.note == "":
		return "run --" + f.of.flag
	}
	return "run --" + f.of.flag + "; " + f.of.note
}

// pilotAgentHint says what a flag of pilot-agent's is here; "": it is none.
func pilotAgentHint(flag string) string {
	f := agentFlagNamed(flag)
	if f == nil {
		return ""
	}
	return ", which is pilot-agent's: " + agentFlagValue{name: flag, of: f}.answer()
}

func agentFlagNamed(name string) *agentFlag {
	i := slices.IndexFunc(agentFlags, func(f agentFlag) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &agentFlags[i]
}
