#!/bin/bash
# Compiles the kernel programs again and compares the result with what is
# committed. Another clang than the one that made the committed object makes
# other instructions; then only the generated Go is compared.
set -euo pipefail
cd "$(dirname "$0")/.."

want=14 # Debian 12's clang made the committed object
have=$("${BPF2GO_CC:-clang}" -dumpversion | cut -d. -f1)
old=$(mktemp -d)
trap 'cp "$old"/* bpf/; rm -rf "$old"' EXIT
cp bpf/egressd_bpfel.go bpf/egressd_bpfel.o "$old"

go generate ./bpf
cmp "$old/egressd_bpfel.go" bpf/egressd_bpfel.go || { echo "bpf/egressd_bpfel.go is not what the C says: run make generate and commit" >&2; exit 1; }
if [ "$have" != "$want" ]; then
	echo "clang is $have, the committed object is clang $want's: the object was compiled but not compared"
	exit 0
fi
cmp "$old/egressd_bpfel.o" bpf/egressd_bpfel.o || { echo "bpf/egressd_bpfel.o is not what the C says: run make generate and commit" >&2; exit 1; }
