// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"os"
	"testing"

	"github.com/egressd/egressd/internal/kubetest"
)

var shared kubetest.Shared

func TestMain(m *testing.M) {
	if os.Getenv(helperKubeconfig) != "" {
		os.Exit(helper())
	}
	os.Exit(shared.Main(m))
}
