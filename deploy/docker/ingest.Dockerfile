# A job that fills a collection: `milvus-coop ingest`. It ends with the command's exit code: 0 all fine, 1 some items failed, 2 none done.
#
#   docker build -f deploy/docker/ingest.Dockerfile -t milvus-coop/ingest:0.1.0 .
#
# With object stores, and for `--engine ray` on Kubernetes, whose jobs need Ray's dashboard:
#
#   docker build -f deploy/docker/ingest.Dockerfile -t milvus-coop/ingest-ray:0.1.0 --build-arg LOCK=ingest-ray.txt .
#
# The base is pinned by tag, because no image registry could be reached to read the digest.
ARG PYTHON_IMAGE=python:3.12.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
# A file of deploy/docker/locks/. For other packages, such as gcsfs, make one of your own as `make locks` does.
ARG LOCK=ingest.txt
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_LOCKED="--quiet --no-deps --only-binary=:all: --require-hashes"
COPY deploy/docker/locks/build.txt deploy/docker/locks/${LOCK} ./
# The install has two steps and optional secrets, as gateway.Dockerfile explains.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem --mount=type=cache,target=/root/.cache/pip \
    if [ -e /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && python3 -m venv /opt/build && /opt/build/bin/pip install $PIP_LOCKED -r build.txt \
    && python3 -m venv /opt/milvus-coop && /opt/milvus-coop/bin/pip install $PIP_LOCKED -r ${LOCK}
COPY pyproject.toml README.md LICENSE ./
COPY milvus_coop milvus_coop
COPY examples/images examples/images
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && /opt/milvus-coop/bin/pip install --quiet --no-deps --no-index /wheels/*.whl \
    && /opt/milvus-coop/bin/pip uninstall --quiet --yes pip setuptools

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="milvus-coop ingest" \
      org.opencontainers.image.description="Fills a Milvus collection with images or texts, and ends" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/milvus-coop /opt/milvus-coop
ENV PATH=/opt/milvus-coop/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["milvus-coop", "ingest"]
CMD ["--help"]
