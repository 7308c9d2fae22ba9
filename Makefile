# Every target does its own set-up: Python 3.11 to 3.13 and make are enough, and Go for `make interop`.
#   make serve     serve what is in models/; where that is nothing, train on made-up data first. ARGS="--port 6000" adds flags
#   make test      all tests but interop
#   make lint      formatting, types and the walls between packages
#   make interop   stock gRPC and Prometheus tools against the server
#   make protos    generate the code of protos/ anew

PYTHON ?= python3
ARGS ?=

INSTALL = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable
PROTO = protos/headlines/v1/popularity.proto
TOOLS = \
	github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4 \
	github.com/grpc-ecosystem/grpc-health-probe@v0.4.61 \
	github.com/bojand/ghz/cmd/ghz@v0.93.0 \
	github.com/bufbuild/buf/cmd/buf@v1.75.0 \
	github.com/prometheus/prometheus/cmd/promtool@v0.316.0

.PHONY: serve test lint interop protos
.DELETE_ON_ERROR:

serve: .venv/.training
	@ls models/*/saved_model.pb >/dev/null 2>&1 || { \
		echo "models/ holds no version: training one on made-up data." && \
		mkdir -p data && \
		.venv/bin/python -m training synthesize --out data/made-up.csv.gz && \
		.venv/bin/python -m training fit --data data/made-up.csv.gz --models models; }
	@exec .venv/bin/python -m service serve --models models $(ARGS)

test: .venv/.dev
	.venv/bin/python -m pytest -m "not interop" $(ARGS)

lint: .venv/.dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

interop: .venv/.dev .tools/.installed
	.venv/bin/python -m pytest -m interop $(ARGS)

protos: .venv/.dev
	.venv/bin/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos --grpc_python_out=protos $(PROTO)

# A changed pyproject.toml or lock begins with an empty environment, so that nothing old stays behind.
.venv/.created: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "$(PYTHON) is not Python 3.11 to 3.13; name one that is: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@touch $@

.venv/.training: .venv/.created
	$(INSTALL) '.[training]'
	@touch $@

.venv/.dev: .venv/.created
	$(INSTALL) '.[training,dev]'
	@touch $@

.tools/.installed: Makefile
	for tool in $(TOOLS); do GOBIN=$(CURDIR)/.tools go install $$tool || exit; done
	@touch $@
