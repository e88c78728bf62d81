# What a fresh Debian 12 machine needs besides Go and make; the lab and the
# network tests run real clients, routers and the kernel's own filter.
PACKAGES = nftables iproute2 iputils-ping procps tcpdump \
	wide-dhcpv6-client dhcpcd-base isc-dhcp-client dibbler-client systemd kea-admin

# What the benchmarks measure beside ours, and what they need themselves.
BENCH_PACKAGES = iproute2 ethtool kea-dhcp6-server coredhcp-server nftables iptables ipset

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

export CGO_ENABLED = 0
# A version comes from git alone, so that a tree with other owners builds too.
export GOFLAGS += -buildvcs=false

.PHONY: build test test-debian-kernel lint demo bench bench-go bench-dhcp6 bench-filter deps

build:
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/sixacre ./cmd/sixacre

# All tests, the lab included. Those with real packets need root and say so by
# name where they cannot run.
test: deps build
	go test -count=1 -timeout 20m ./...

# The tests that the kernel decides, once more on Debian 12's own, in a virtual
# machine (lab/vm): ten minutes and more without KVM. It needs a Debian mirror.
test-debian-kernel:
	@.ci/install qemu-system-x86 busybox-static nftables iproute2 procps
	lab/vm/test

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo 'run gofmt -w on the files above' >&2; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

demo: deps build
	bin/sixacre lab demo

# All benchmarks, or those named, such as make bench BENCH=filter: Go's own, and
# the DHCPv6 server and the filter beside their limits and peers (bench/), which
# need root and take some ten and some five minutes.
BENCH = go dhcp6 filter

bench: $(addprefix bench-,$(BENCH))

bench-go:
	go test -run '^$$' -bench . -benchmem ./...

bench-filter: build # its agent is measured

bench-dhcp6 bench-filter: bench-%:
	@.ci/install $(BENCH_PACKAGES)
	go run ./bench $*

deps:
	@.ci/install $(PACKAGES)
