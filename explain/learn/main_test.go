// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"os"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
