// SPDX-License-Identifier: Apache-2.0

package podcgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// DefaultLogs is where the kubelet has a directory for each pod of the node.
const DefaultLogs = "/var/log/pods"

// Name is a pod's name in the API.
type Name struct{ Namespace, Name string }

// ErrNotRoots says that others than root may make directories of pods' logs.
var ErrNotRoots = errors.New("others than root may write there")

// Logged reads the names of pods from the directories of their logs in dir, which the
// kubelet calls NAMESPACE_NAME_UID and makes before a pod's first container. For a static
// pod that is its own UID. A directory that is missing has none.
func Logged(dir string) (map[string]Name, error) {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() || !onlyRoots(info) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotRoots)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := map[string]Name{}
	for _, e := range entries {
		if uid, name, ok := logged(e.Name()); ok && e.IsDir() {
			if info, err := e.Info(); err == nil && onlyRoots(info) {
				names[uid] = name
			}
		}
	}
	return names, nil
}

// logged splits the name of a directory. No part of it may have the character that
// parts them (RFC 1123).
func logged(dir string) (uid string, name Name, ok bool) {
	f := strings.Split(dir, "_")
	if len(f) != 3 || f[0] == "" || f[1] == "" || !isUID(f[2]) {
		return "", Name{}, false
	}
	return f[2], Name{Namespace: f[0], Name: f[1]}, true
}
