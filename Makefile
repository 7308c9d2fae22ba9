# Every target does its own set-up: Python 3.11 to 3.13 and make are enough, and Go for `make interop`. The Python is the first
# of python3, python3.13, python3.12 and python3.11 that will do, or the one that `make PYTHON=...` names.
#   make serve     serve what is in models/; if that is empty, train on made-up data first. ARGS="--port 6000" adds flags
#   make test      all tests but interop
#   make lint      formatting, types and the walls between packages
#   make resilience  what must hold on a bad day, for hours; `make test` tries it in short
#   make interop   stock gRPC and Prometheus tools against the server
#   make interop-all  that, and what takes long or root: Triton, KServe's client, perf_analyzer, a Ray cluster,
#                  schemathesis, the page in Chromium; best alone
#   make protos    regenerate the code of protos/
#   make lock      pin the requirements again; ARGS=--upgrade takes the newest

PYTHON ?=
ARGS ?=

PIP = .venv/bin/python -m pip install --disable-pip-version-check
PROTO = protos/headlines/v1/popularity.proto
TOOLS = \
	github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4 \
	github.com/grpc-ecosystem/grpc-health-probe@v0.4.61 \
	github.com/bojand/ghz/cmd/ghz@v0.93.0 \
	github.com/bufbuild/buf/cmd/buf@v1.75.0 \
	github.com/prometheus/prometheus/cmd/promtool@v0.316.0
S3_SERVER = "moto[server]==5.2.5"
TRITON_CLIENT = "tritonclient[grpc]==2.73.0"
TRITON = nvidia-pytriton==0.7.0
KSERVE = kserve==0.21.0
PERF_ANALYZER = tritonclient==2.48.0
CUDA_RUNTIME = nvidia-cuda-runtime-cu12==12.9.79
PLAYWRIGHT = playwright==1.65.2
AXE = axe-core@4.14.1
SCHEMATHESIS = schemathesis==4.32.5

# Recipes share one environment and one models/.
.NOTPARALLEL:
.PHONY: serve test lint resilience interop interop-all protos lock
.DELETE_ON_ERROR:

# A model that is there needs no TensorFlow to be served.
serve: .venv/$(if $(wildcard models/*/saved_model.pb),.service,.training)
	@ls models/*/saved_model.pb >/dev/null 2>&1 || { \
		echo "models/ holds no version: training one on made-up posts, which takes a minute or two." && \
		mkdir -p data && \
		.venv/bin/headlines synthesize --out data/made-up.csv.gz && \
		.venv/bin/headlines fit --data data/made-up.csv.gz --models models; }
	@port=$$(echo '$(ARGS)' | sed -n 's/.*--port[ =]\([1-9][0-9]*\).*/ --target 127.0.0.1:\1/p') && \
		echo "Starting the server; Ctrl-C stops it. Once it is serving, ask in another terminal:" && \
		echo "    .venv/bin/headlines predict$$port \"Storm closes every school\"" && \
		echo "or open the page that the log names, http://127.0.0.1:8000/ unless that port is taken."
	@exec .venv/bin/python -m service serve --models models $(ARGS)

test: .venv/.dev
	.venv/bin/python -m pytest -m "not interop and not interop_all" $(ARGS)

lint: .venv/.dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

# Each ends with 1 if a promise is broken, and needs the real posts and a model of them in models/.
resilience: .venv/.dev
	@for name in stopping starting swaps volumes overload crowds visitors texts bulk cancels soak killed_training fuzz; do \
		echo "$$name" && .venv/bin/python -m tests.resilience.$$name || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "broken:$$failed"; exit 1; }

interop: .venv/.dev .tools/.installed
	.venv/bin/python -m pytest -m interop $(ARGS)

interop-all: .venv/.dev .tools/.installed .tools/.all-installed
	.venv/bin/python -m pytest -m "interop or interop_all" $(ARGS)

protos: .venv/.dev
	.venv/bin/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos --grpc_python_out=protos $(PROTO)

lock: .venv/.dev
	.venv/bin/python requirements/update.py $(ARGS)

# A changed pyproject.toml or lock begins with an empty environment, so that nothing old stays behind.
.venv/.created: pyproject.toml protos/pyproject.toml $(wildcard requirements/*.lock)
	@test -w . || { echo "this directory cannot be written to; .venv/ is to be made in it"; exit 1; }
	@for python in $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11); do \
		if ! command -v "$$python" >/dev/null; then \
			reason="is not installed"; \
		elif ! version=$$("$$python" -c 'import platform; print(platform.python_version())' 2>/dev/null); then \
			reason="does not run"; \
		elif ! "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then \
			reason="is Python $$version"; \
		elif ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
			reason="has no module venv or ensurepip (on Debian and Ubuntu: apt install python3-venv)"; \
		else \
			echo "$$python -m venv --clear .venv"; \
			$(COUNT); \
			"$$python" -m venv --clear .venv && touch $@; \
			exit; \
		fi; \
		tried="$$tried  $$python $$reason\n"; \
	done; \
	printf "there is no Python 3.11 to 3.13 to use:\n$$tried"; \
	echo "name one that is: make PYTHON=/path/to/python3.11 ..."; exit 1

# Says until the recipe ends how much is installed: pip is silent while it unpacks.
COUNT = ( while sleep 5 >/dev/null 2>&1; do echo "... .venv/ holds $$(du -sm .venv | cut -f1) MB"; done ) & counter=$$!; \
	trap 'kill $$counter' EXIT; trap 'exit 130' INT TERM

# $(call install,LOCK,MB TO DOWNLOAD,MB ON DISK). Our own names are never looked up: an index may hold a stranger's.
define install
	@echo "Installing into .venv/, once: about $(2) MB to download, $(3) MB on disk."
	@$(COUNT); $(PIP) --require-hashes -r requirements/$(1).lock && \
		$(PIP) --no-deps --no-build-isolation --editable ./protos --editable .
endef

.venv/.service: .venv/.created
	$(call install,service,60,200)
	@touch $@

.venv/.training: .venv/.created
	$(call install,training,800,2700)
	@touch .venv/.service $@

.venv/.dev: .venv/.created
	$(call install,dev,850,2800)
	@touch .venv/.service .venv/.training $@

# $(call tool,NAME,WHAT): what does not go together with our own pins, each in an environment of its own.
define tool
	.venv/bin/python -m venv --clear .tools/$(1) && .tools/$(1)/bin/pip install --disable-pip-version-check --quiet $(2)
endef

.tools/.installed: Makefile
	for tool in $(TOOLS); do GOBIN="$(CURDIR)/.tools" go install $$tool || exit; done
	$(call tool,s3,$(S3_SERVER))
	$(call tool,tritonclient,$(TRITON_CLIENT))
	@touch $@

.tools/.all-installed: Makefile requirements/ray.lock
	$(call tool,triton,$(TRITON))
	$(call tool,kserve,$(KSERVE))
	$(call tool,ray,--require-hashes -r requirements/ray.lock)
	.tools/ray/bin/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable ./protos --editable .
	.venv/bin/python tests/interop/perf_analyzer.py .tools/perf_analyzer $(PERF_ANALYZER) $(CUDA_RUNTIME)
	$(call tool,playwright,$(PLAYWRIGHT))
	$(call tool,schemathesis,$(SCHEMATHESIS))
	! command -v npm >/dev/null || npm install --silent --prefix .tools/axe $(AXE)
	@touch $@
