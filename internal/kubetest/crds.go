// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// IstioKinds is a file with the definitions of Istio's kinds, of the version
// that egressd reads, with their validation.
func IstioKinds() ([]string, error) {
	return kinds("istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml")
}

// GatewayAPIKinds are files with the definitions of the Gateway API's standard
// channel, of the version that egressd reads.
func GatewayAPIKinds() ([]string, error) {
	return kinds("sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_*s.yaml")
}

// InstallIstio gives the cluster the kinds of Istio, and waits until they are served.
func (c *Cluster) InstallIstio(t testing.TB) {
	t.Helper()
	if err := Install(c.TryKubectl, IstioKinds); err != nil {
		t.Fatal(err)
	}
}

// InstallGatewayAPI gives the cluster the kinds of the Gateway API, and waits
// until they are served.
func (c *Cluster) InstallGatewayAPI(t testing.TB) {
	t.Helper()
	if err := Install(c.TryKubectl, GatewayAPIKinds); err != nil {
		t.Fatal(err)
	}
}

func kinds(module, pattern string) ([]string, error) {
	dir, err := moduleDir(module)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("the module %s has no %s", module, pattern)
	}
	return files, err
}

// Install applies definitions of kinds by kubectl, and waits until they are served.
func Install(kubectl func(input string, args ...string) (string, error), definitions func() ([]string, error)) error {
	files, err := definitions()
	if err != nil {
		return err
	}
	args := []string{"apply", "--server-side", "-o", "name"} // some are too long for kubectl's annotation
	for _, f := range files {
		args = append(args, "-f", f)
	}
	out, err := kubectl("", args...)
	if err != nil {
		return err
	}
	wait := []string{"wait", "--for=condition=Established", "--timeout=60s"}
	for name := range strings.Lines(out) {
		if name = strings.TrimSpace(name); strings.HasPrefix(name, "customresourcedefinition") {
			wait = append(wait, name)
		}
	}
	_, err = kubectl("", wait...)
	return err
}
