// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel programs of egressd (C), the ABI header that
// they share with user space, and the Go code that bpf2go generates from them.
// It contains nothing else: package loader owns every map and link.
//
// The objects are committed, so that building needs no clang; "make generate"
// rebuilds them.
//
// The C is GPL-2.0 OR BSD-2-Clause (the kernel asks for GPL), the Go
// Apache-2.0.
package bpf

//go:generate go tool bpf2go -go-package bpf -output-stem egressd -target bpfel -type egd_event -type egd_addr_key -type egd_known_key -type egd_endpoint_key -type egd_endpoint -type egd_name_key Egressd egressd.bpf.c -- -O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
