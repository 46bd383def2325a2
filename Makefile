# One entry point for developers; `make help` prints what follows a "##".
PYTHON ?= python3
RUN := .venv
DEV := .venv-dev
LOWEST := .venv-lowest
LISTED := .venv-listed
TOOLS := .venv-tools
LOCKS := deploy/docker/locks
LOCK = $(TOOLS)/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate --custom-compile-command "make locks" \
	--constraints constraints.txt --no-emit-package milvus-lite --no-emit-package faiss-cpu
# Container images have Python 3.11 or newer.
LOCK_IMAGE = $(LOCK) --python-version 3.11 pyproject.toml
ARGS ?=
PHOTOS ?= ../shared/photos
# A program that ends with make, even if make is killed, where the system can do that; `exec` because make signals only its own children.
TIED := exec $(shell command -v setpriv >/dev/null && echo setpriv --pdeathsig TERM --)

.DEFAULT_GOAL := help
.PHONY: help install demo dev check format test test-more test-lowest docker-test docker-test-local model triton-models locks gallery-image docs-figures house bench sbom audit clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(RUN)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(RUN)
	$(RUN)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve]'
	@touch $@

$(DEV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(DEV)
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(LOWEST)/installed: pyproject.toml tests/lowest.py $(DEV)/installed
	$(PYTHON) -m venv --clear $(LOWEST)
	$(DEV)/bin/python -m tests.lowest serve trace triton > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/lowest.txt \
		-e '.[serve,trace,triton]' httpx hypothesis psutil pytest pytest-timeout
	@touch $@

install: $(RUN)/installed ## make .venv with the package as users install it (no torch)

demo: install ## ingest the sample images and run three queries
	$(RUN)/bin/milvus-coop demo

dev: $(DEV)/installed ## make .venv-dev with everything for training and tests

check: dev ## lint and type-check
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy

format: dev ## format the code
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

test: dev ## run what a change can break, in an environment of its own; ARGS="-k store" runs some
	$(TIED) $(DEV)/bin/python -m pytest -m "not more" $(ARGS)

test-lowest: $(LOWEST)/installed ## run some tests with the lowest versions of the dependencies that pyproject.toml allows
	$(TIED) $(LOWEST)/bin/python -m pytest -W default -m "not more and not server and not triton" --ignore tests/unit/test_dependencies.py \
		tests/unit tests/integration/test_ingest_lite.py tests/integration/test_search.py tests/gateway/test_search.py

test-more: dev test-lowest ## run the rest: trainings, conversions, long runs with faults, the lowest versions
	$(TIED) $(DEV)/bin/python -m pytest -m more $(ARGS)

docker-test: dev ## build the images, bring deploy/compose.yaml up and test it; needs docker with Compose
	MILVUS_ROOT_PASSWORD=- MILVUS_COOP_SERVE_API_KEYS=- docker compose -f deploy/compose.yaml --profile ingest build
	MILVUS_ROOT_PASSWORD=- MILVUS_COOP_SERVE_API_KEYS=- docker compose -f deploy/compose.yaml pull milvus
	$(TIED) $(DEV)/bin/python -m pytest tests/docker $(ARGS)

docker-test-local: dev ## the same on a Debian machine without docker and image registry, as root; Milvus from its wheel (5 minutes)
	$(DEV)/bin/python -m tests.docker.engine $(ARGS)

model: dev ## make coop-small: data, training, export, evaluation, card; PHOTOS=DIR: the folder of Flickr8k
	$(DEV)/bin/python -m recipes.coop_small all --photos $(PHOTOS)

triton-models: dev ## write triton_models/ again, after a change of the bundle or of the configurations
	$(DEV)/bin/python -m tests.unit.regenerate_triton_models

locks: $(TOOLS)/installed ## pin the packages of the container images, with hashes, after a change of dependencies; ARGS=--upgrade: indirect ones too
	$(LOCK_IMAGE) --extra serve --extra trace --extra triton --no-emit-package pyarrow $(ARGS) -o $(LOCKS)/gateway.txt
	$(LOCK_IMAGE) --extra triton --no-emit-package pyarrow $(ARGS) -o $(LOCKS)/triton.txt
	echo prometheus-client | $(LOCK_IMAGE) - --extra triton $(ARGS) -o $(LOCKS)/ingest.txt
	echo 'prometheus-client ray[default]' | tr ' ' '\n' | $(LOCK_IMAGE) - --extra triton --extra s3 --extra ray $(ARGS) -o $(LOCKS)/ingest-ray.txt
	echo hatchling | $(LOCK) --python-version 3.11 - $(ARGS) -o $(LOCKS)/build.txt
	$(PYTHON) -c 'import runpy; print(*runpy.run_path("milvus_coop/serving/triton/install.py")["REQUIREMENTS"], sep="\n")' \
		| $(subst --constraints constraints.txt,,$(LOCK)) --python-version 3.10 - $(ARGS) -o milvus_coop/serving/triton/requirements.txt

gallery-image: dev ## take docs/gallery.jpg again, after a change of the samples, the bundle or the gallery; needs Chromium (half a minute)
	$(DEV)/bin/python -m tests.gallery.take_image $(ARGS)

docs-figures: dev ## write the figures in README.md, docs/operations.md and docs/reference.md again, after a change of the bundle, rates, settings or errors
	$(DEV)/bin/python docs/figures.py
	$(DEV)/bin/python docs/sizes.py
	$(DEV)/bin/python docs/reference.py

house: ## draw docs/house.svg again, after a change of what imports what
	$(PYTHON) docs/house.py

bench: dev ## run the benchmarks
	$(DEV)/bin/python benchmarks/query.py
	$(DEV)/bin/python benchmarks/ingest.py
	$(DEV)/bin/python benchmarks/serving.py
	$(DEV)/bin/python benchmarks/gateway.py
	$(DEV)/bin/python benchmarks/milvus_side.py

$(LISTED)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(LISTED)
	$(LISTED)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[serve,trace,triton]'
	$(LISTED)/bin/python -m pip uninstall --quiet --yes setuptools
	@touch $@

$(TOOLS)/installed:
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1 uv==0.13.9
	@touch $@

sbom: $(LISTED)/installed $(TOOLS)/installed ## write build/sbom.json (CycloneDX) from a new environment with the extras serve, trace, triton
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json $(LISTED)/bin/python

audit: $(LISTED)/installed $(TOOLS)/installed ## ask PyPI for known vulnerabilities of that environment
	$(TOOLS)/bin/pip-audit --strict --progress-spinner off --path $$(echo $(LISTED)/lib/python3*/site-packages)

clean: ## remove environments and build outputs
	rm -rf $(RUN) $(DEV) $(LOWEST) $(LISTED) $(TOOLS) build dist .mypy_cache .ruff_cache .pytest_cache
