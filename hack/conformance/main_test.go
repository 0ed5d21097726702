// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// inside is the variable by which the test knows itself in its network namespace:
// the folder with the programs.
const inside = "EGRESSD_CONFORMANCE_DIR"

// TestMain builds the programs, and starts the tests anew where the addresses of
// Services, pods and nodes are theirs alone.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	code, err := again()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func again() (code int, err error) {
	dir, err := os.MkdirTemp("", "egressd-conformance-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	for name, pkg := range map[string]string{"egressd": "../../cmd/egressd", "echo": "sigs.k8s.io/gateway-api/conformance/echo-basic"} {
		if _, err := testenv.Build(dir, name, pkg); err != nil {
			return 0, err
		}
	}
	// kubetest finds the definitions of kinds by the module of the folder that it runs in.
	root, err := filepath.Abs("../..")
	if err != nil {
		return 0, err
	}
	c := exec.Command("unshare", append([]string{"--net", "--", self}, os.Args[1:]...)...)
	c.Dir, c.Env = root, append(os.Environ(), inside+"="+dir)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	var exit *exec.ExitError
	if err := c.Run(); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	} else if err != nil {
		return 0, err
	}
	return 0, nil
}
