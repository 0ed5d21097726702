// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"os"
	"testing"

	"github.com/egressd/egressd/internal/kubetest"
)

var shared kubetest.Shared

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }
