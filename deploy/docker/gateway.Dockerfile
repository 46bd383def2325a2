# The HTTP gateway: `milvus-coop serve`. Models run on Triton, the collection is in Milvus; no torch.
#
#   docker build -f deploy/docker/gateway.Dockerfile -t milvus-coop/gateway:0.1.0 .
#
# The base is pinned by tag, because no image registry could be reached to read the digest.
ARG PYTHON_IMAGE=python:3.12.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_LOCKED="--quiet --no-deps --only-binary=:all: --require-hashes"
COPY deploy/docker/locks/build.txt deploy/docker/locks/gateway.txt ./
# Only packages with the hashes of `make locks` are installed, and only wheels, before the code is copied, so that a change of the code does
# not install them again. Milvus Lite is not among them, as a container uses a Milvus server. Behind an index mirror, give pip's configuration
# as `--secret id=pip.conf,src=...` and certificates as `--secret id=ca.pem,src=...`; the default is pip's own. Secrets stay out of layers.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem --mount=type=cache,target=/root/.cache/pip \
    if [ -e /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && python3 -m venv /opt/build && /opt/build/bin/pip install $PIP_LOCKED -r build.txt \
    && python3 -m venv /opt/milvus-coop && /opt/milvus-coop/bin/pip install $PIP_LOCKED -r gateway.txt
COPY pyproject.toml README.md LICENSE ./
COPY milvus_coop milvus_coop
COPY examples/images examples/images
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && /opt/milvus-coop/bin/pip install --quiet --no-deps --no-index /wheels/*.whl \
    && /opt/milvus-coop/bin/pip uninstall --quiet --yes pip setuptools

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="milvus-coop gateway" \
      org.opencontainers.image.description="Cross-modal search on Milvus over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/milvus-coop /opt/milvus-coop
# A volume that is mounted there for the first time gets the same owner.
RUN install -d -o 10001 -g 10001 /var/lib/milvus-coop/uploads
# Besides uploads, only /tmp is written to. With a tmpfs there, the root file system can be read-only.
ENV PATH=/opt/milvus-coop/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MILVUS_COOP_SERVE_HOST=0.0.0.0
WORKDIR /var/lib/milvus-coop
USER 10001:10001
EXPOSE 8080
# /healthz, not /readyz: some platforms restart unhealthy containers, which does not help if Milvus or Triton is unreachable.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://localhost:{os.environ.get('MILVUS_COOP_SERVE_PORT') or 8080}/healthz\", timeout=4)"]
ENTRYPOINT ["milvus-coop"]
CMD ["serve"]
