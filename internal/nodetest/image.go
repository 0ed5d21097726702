// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/testenv"
)

// EgressdImage is the image of egressd that LoadEgressd gives to the node.
const EgressdImage = "docker.io/library/egressd:test"

// addToolImage builds hack/kube/tool and puts its image where the node takes
// images from when it starts.
func (n *Node) addToolImage() error {
	binary, err := testenv.Build(n.bin, "tool", "github.com/egressd/egressd/hack/kube/tool")
	if err != nil {
		return err
	}
	return writeImage(filepath.Join(n.dir, "images", "tool.tar"), ToolImage, binary)
}

// LoadEgressd builds egressd and its image as a release is built, for this
// machine alone, and gives it to the node.
func (n *Node) LoadEgressd() error {
	binary, err := testenv.Build(n.bin, "egressd", "github.com/egressd/egressd/cmd/egressd")
	if err != nil {
		return err
	}
	root, err := kubetest.Root()
	if err != nil {
		return err
	}
	archive := filepath.Join(n.dir, "images", "egressd.tar")
	cmd := exec.Command("go", "run", "-C", filepath.Join(root, "hack", "image"), ".",
		"-name", "egressd:test", "-o", archive, runtime.GOARCH+"="+binary)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making the image: %w\n%s", err, out)
	}
	_, err = n.Run("ctr", "-n", "k8s.io", "images", "import", archive)
	return err
}

// writeImage writes an image that holds one program, /tool, as the archive
// that "docker save" writes.
func writeImage(out, name, binary string) error {
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	layer, err := archive(file{"tool", data, 0o755})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(layer)
	type object = map[string]any
	config, err := json.Marshal(object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Entrypoint": []string{"/tool"}, "Cmd": []string{"pause"}},
		"rootfs": object{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]object{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	all, err := archive(file{"manifest.json", manifest, 0o644}, file{"config.json", config, 0o644}, file{"layer.tar", layer, 0o644})
	if err != nil {
		return err
	}
	return os.WriteFile(out, all, 0o644)
}

type file struct {
	name string
	data []byte
	mode int64
}

func archive(files ...file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: time.Unix(0, 0)})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}
