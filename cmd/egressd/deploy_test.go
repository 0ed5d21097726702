// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// commandsOf are the calls of egressd in what is installed: the containers' of manifests,
// with the values of their ConfigMap, and those that units start.
func commandsOf(t *testing.T, file string) (calls [][]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", file))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(file, ".service") {
		for _, line := range regexp.MustCompile(`(?m)^Exec\w+=/usr/local/bin/egressd (.+)$`).FindAllStringSubmatch(string(text), -1) {
			calls = append(calls, strings.Fields(line[1]))
		}
		return calls
	}
	values := map[string]string{"NODE_NAME": "node1"}
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		var o struct {
			Kind string            `json:"kind"`
			Data map[string]string `json:"data"`
			Spec struct {
				Template core.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		}
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return calls
		}
		if err != nil {
			continue // of another shape than what has containers
		}
		if o.Kind == "ConfigMap" {
			for k, v := range o.Data {
				values[k] = v
			}
		}
		for _, c := range append(o.Spec.Template.Spec.InitContainers, o.Spec.Template.Spec.Containers...) {
			if len(c.Args) == 0 {
				continue
			}
			var call []string
			for _, arg := range c.Args {
				call = append(call, os.Expand(strings.NewReplacer("$(", "${", ")", "}").Replace(arg), func(k string) string { return values[k] }))
			}
			calls = append(calls, call)
		}
	}
}

// TestDeployedFlags: egressd knows every flag, with its value, that deploy/ starts it with.
func TestDeployedFlags(t *testing.T) {
	parse := func(call []string) error {
		cmd, args, err := root(env{}).Find(call)
		if err != nil {
			return err
		}
		if err := cmd.ParseFlags(args); err != nil {
			return err
		}
		if rest := cmd.Flags().Args(); len(rest) > 0 {
			return fmt.Errorf("%s does not take %q", cmd.Name(), rest)
		}
		return nil
	}
	for _, file := range []string{"kubernetes/egressd.yaml", "kubernetes/uninstall.yaml", "systemd/egressd.service", "systemd/egressd-boot.service"} {
		calls := commandsOf(t, file)
		if len(calls) == 0 {
			t.Errorf("%s does not call egressd", file)
		}
		for _, call := range calls {
			if err := parse(call); err != nil {
				t.Errorf("%s: egressd %q: %v", file, call, err)
			}
			if err := parse(append(call, "--no-such-flag")); err == nil {
				t.Errorf("%s: egressd %s takes any flag", file, call[0])
			}
		}
	}
}

// TestPolicyIsNeeded: nobody denies everything by accident.
func TestPolicyIsNeeded(t *testing.T) {
	for _, tt := range []struct {
		flags policyFlags
		fails bool
	}{
		{policyFlags{mode: "enforce"}, true},
		{policyFlags{mode: "enforce", empty: true}, false},
		{policyFlags{mode: "enforce", config: []string{"x"}}, false},
		{policyFlags{mode: "audit"}, false},
	} {
		cmd := &cobra.Command{}
		f := policyFlags{}
		f.register(cmd, "info")
		f.mode, f.empty, f.config = tt.flags.mode, tt.flags.empty, tt.flags.config
		if _, err := f.options(env{stderr: io.Discard}); (err != nil) != tt.fails {
			t.Errorf("%+v: %v", tt.flags, err)
		}
	}
}
