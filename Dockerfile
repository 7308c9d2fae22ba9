# The server and what it needs, without training. Models are mounted at /models:
#   docker build -t headlines .
#   docker run -p 50051:50051 -v "$PWD/models:/models:ro" headlines
# EXTRA=gpu adds TensorFlow with CUDA, for a host that has NVIDIA's container runtime (docker run --gpus all). EXTRA=score makes an
# image that scores files, without a server.

FROM python:3.11-slim AS build
ARG EXTRA=service
RUN python -m venv /opt/venv
WORKDIR /source
COPY requirements requirements
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r "requirements/$EXTRA.lock"
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY service service
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation ./protos . && \
    /opt/venv/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim
LABEL org.opencontainers.image.title="headline-popularity" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin headlines && mkdir /models
COPY --from=build /opt/venv /opt/venv
# In a container 127.0.0.1 is the container's own; what reaches it from outside is said by who runs it. :: is IPv4 too.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEADLINES_HOST=:: \
    HEADLINES_HTTP_HOST=:: \
    HEADLINES_WEB_HOST=:: \
    HEADLINES_MODELS=/models
USER 10001
EXPOSE 50051 8080 8000
STOPSIGNAL SIGTERM
# It asks at HEADLINES_HTTP_HOST and HEADLINES_HTTP_PORT; flags of the server it does not see.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["headlines", "healthcheck"]
# The kernel drops a signal to PID 1 that has no handler yet, but keeps one that is blocked until the server, a moment later, waits
# for it. An init would be one more process to install, to start and to pass signals on.
ENTRYPOINT ["env", "--block-signal=TERM,INT,HUP", "headlines"]
CMD ["serve"]
