# Words: build, image, packages, release, plugin, manifests, generate, test, test-ui, test-otlp, test-conformance, test-vm, test-node, kube-tools, attack, demo, bench, profile, soak, fuzz, bpf-coverage, lint, house, check-generated, clean.
SHELL   := /bin/bash
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= egressd:$(VERSION)

# The tests, the demo and the benchmark make network namespaces and load kernel
# programs. What is compiled stays the caller's, only the result runs as root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo env "PATH=$(PATH)" EGRESSD_CI=$(EGRESSD_CI) GOFLAGS=-buildvcs=false)

.PHONY: all build image packages release plugin manifests generate check-generated test test-ui test-otlp test-conformance test-vm test-node kube-tools attack demo bench profile soak fuzz bpf-coverage lint house clean help
all: build

# What the compiler takes for hot; "off" builds faster. "make profile" renews it.
PGO ?= cmd/egressd/release.pgo
RELEASE = -trimpath -pgo=$(PGO) -ldflags '-s -w -X main.version=$(VERSION)'

build: ## bin/egressd, static
	CGO_ENABLED=0 $(GO) build $(RELEASE) -o bin/egressd ./cmd/egressd

generate: ## compile the kernel programs again (needs clang; the objects are committed)
	hack/install-test-deps.sh generate
	$(GO) generate ./bpf

image: ## bin/egressd-image.tar, an OCI archive for amd64 and arm64; needs no registry and no container runtime
	for arch in amd64 arm64; do \
		CGO_ENABLED=0 GOARCH=$$arch $(GO) build $(RELEASE) -o bin/egressd-$$arch ./cmd/egressd || exit 1; \
	done
	$(GO) build -C hack/image -o ../../bin/image .
	bin/image -name $(IMAGE) -version $(VERSION) -o bin/egressd-image.tar amd64=bin/egressd-amd64 arm64=bin/egressd-arm64

# The time that files of packages bear: that of the commit.
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)

packages: ## bin/release: static binaries, .deb and .rpm for amd64 and arm64, what is in them (CycloneDX), SHA256SUMS
	rm -rf bin/release
	for arch in amd64 arm64; do \
		CGO_ENABLED=0 GOARCH=$$arch $(GO) build $(RELEASE) -o bin/egressd-$$arch ./cmd/egressd || exit 1; \
	done
	$(GO) build -C hack/packages -o ../../bin/packages .
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) bin/packages -version $(VERSION) -o bin/release amd64=bin/egressd-amd64 arm64=bin/egressd-arm64

release: packages ## the same, and that the sums are right; VERSION=v0.1.0
	cd bin/release && sha256sum --check --strict SHA256SUMS

plugin: ## bin/kubectl-egress, the kubectl plugin; GOOS and GOARCH choose the platform
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/kubectl-egress ./cmd/kubectl-egress

manifests: ## deploy/kubernetes from the Helm chart in deploy/helm
	$(GO) run -C hack/chart . -top ../.. -write

check-generated: ## do the committed objects come from the committed C?
	hack/install-test-deps.sh generate
	hack/check-generated.sh

test: ## every test; installs through apt-get what they need and is missing
	hack/install-test-deps.sh test
	$(GO) test -timeout 20m -p 2 $(if $(ROOT),-exec '$(ROOT)') $(TESTFLAGS) ./...

test-ui: ## the web page in Chromium, which is installed if it is missing
	hack/install-test-deps.sh test browser
	$(GO) test -C hack/uitest -count=1 $(if $(ROOT),-exec '$(ROOT)') $(TESTFLAGS) ./...

test-otlp: ## what the daemon sends by OTLP and in Zipkin's format, taken by the OpenTelemetry collector's receivers
	hack/install-test-deps.sh test
	$(GO) test -C hack/otlptest -count=1 $(if $(ROOT),-exec '$(ROOT)') $(TESTFLAGS) ./...

test-conformance: ## the Gateway API's own conformance tests, with a node for each Gateway: some 4 minutes
	hack/install-test-deps.sh test
	$(GO) test -C hack/conformance -count=1 -timeout 60m $(if $(ROOT),-exec '$(ROOT)') $(TESTFLAGS) ./...

test-vm: ## the kernel's part of the tests, on Debian's Linux 6.1 and 6.12 in QEMU
	hack/vm/run

test-node: ## egressd under systemd, with podman, and on a whole Kubernetes node, in namespaces of their own; NODE_MODES='hybrid unified'
	hack/install-test-deps.sh node
	$(GO) test -tags node -count=1 -timeout 15m $(if $(ROOT),-exec '$(ROOT)') $(TESTFLAGS) ./internal/systemdtest
	$(GO) test -tags node -count=1 -timeout 5m $(if $(ROOT),-exec '$(ROOT)') $(TESTFLAGS) -run '^TestPodman$$' ./internal/e2e
	hack/kube/build all >/dev/null
	for mode in $(or $(NODE_MODES),$(if $(wildcard /sys/fs/cgroup/unified),hybrid) unified); do \
		$(GO) test -tags node -count=1 -timeout 30m $(if $(ROOT),-exec '$(ROOT)') $(TESTFLAGS) ./internal/nodetest -args -mode $$mode || exit 1; \
	done

kube-tools: ## the programs of a Kubernetes node that tests use, built from the Go module proxy; minutes, then cached
	hack/kube/build all

attack: ## every way out that is known, tried; prints the table, writes docs/ATTACKS.md
	hack/install-test-deps.sh test
	cd internal/attack && $(GO) test -timeout 5m -count=1 $(if $(ROOT),-exec '$(ROOT)') -args -table -write

demo: build ## the seed policy at work, in network namespaces of its own
	$(ROOT) bin/egressd demo

bench: build ## egressd beside nginx, HAProxy, sniproxy and none; BENCHFLAGS='-what load,memory'
	hack/install-test-deps.sh bench
	$(GO) build -o bin/bench ./hack/bench
	$(ROOT) bin/bench -egressd bin/egressd $(BENCHFLAGS)

profile: build ## renew cmd/egressd/release.pgo, by which builds are optimised: two minutes on a quiet machine; needs root
	hack/install-test-deps.sh bench
	$(GO) build -o bin/bench ./hack/bench
	rm -rf bin/profile && mkdir -p bin/profile/own bin/profile/shared
	$(ROOT) bin/bench -egressd bin/egressd -only egressd -rounds 1 -duration 15s -profile bin/profile/own -what http,http-new,tls-terminate,tls-handshake
	$(ROOT) bin/bench -egressd bin/egressd -only egressd -rounds 1 -duration 15s -profile bin/profile/shared -shared -what http-new
	$(GO) tool pprof -proto bin/profile/*/*.pprof >bin/profile/release.pgo
	cp bin/profile/release.pgo cmd/egressd/release.pgo

soak: build ## a mixed load with kills, reloads and failures at random for SOAK (15m); SOAKFLAGS='-seed 1'
	hack/install-test-deps.sh test
	$(GO) build -o bin/soak ./hack/soak
	$(ROOT) bin/soak -egressd bin/egressd -for $(or $(SOAK),15m) $(SOAKFLAGS)

fuzz: ## every fuzz target for FUZZTIME (5s)
	hack/fuzz.sh $(FUZZTIME)

bpf-coverage: ## branches of the kernel programs that no test reaches; minutes
	hack/bpf-coverage

lint: ## gofmt, go vet, golangci-lint, clang-format, shellcheck
	hack/install-test-deps.sh lint
	hack/lint/run

house: ## lengths, and the order of files in the big packages; writes the table of docs/ARCHITECTURE.md
	$(GO) run ./hack/house -write docs/ARCHITECTURE.md

clean: ## remove what was built
	rm -rf bin

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18
