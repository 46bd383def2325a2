# Triton for machines without a GPU: tritonserver from a PyPI wheel, the graphs run by ONNX Runtime in its Python backend. x86-64 only.
#
#   docker build -f deploy/docker/triton-cpu.Dockerfile -t milvus-coop/triton-cpu:0.1.0 .
#
# The base is pinned by tag, because no image registry could be reached to read the digest.
ARG PYTHON_IMAGE=python:3.12.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_LOCKED="--quiet --no-deps --only-binary=:all: --require-hashes"
COPY deploy/docker/locks/build.txt deploy/docker/locks/triton.txt ./
# The install has two steps and optional secrets, as gateway.Dockerfile explains.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem --mount=type=cache,target=/root/.cache/pip \
    if [ -e /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && python3 -m venv /opt/build && /opt/build/bin/pip install $PIP_LOCKED -r build.txt \
    && python3 -m venv /opt/milvus-coop && /opt/milvus-coop/bin/pip install $PIP_LOCKED -r triton.txt
COPY pyproject.toml README.md LICENSE ./
COPY milvus_coop milvus_coop
COPY examples/images examples/images
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && /opt/milvus-coop/bin/pip install --quiet --no-deps --no-index /wheels/*.whl \
    && /opt/milvus-coop/bin/pip uninstall --quiet --yes pip setuptools

# tritonserver gets an environment of its own below MILVUS_COOP_CACHE, where `milvus-coop triton serve` finds it. Only the module that
# installs it is copied first, so that a change elsewhere does not repeat the install.
FROM ${PYTHON_IMAGE} AS tritonserver
WORKDIR /src
COPY milvus_coop/errors.py milvus_coop/
COPY milvus_coop/serving/triton/install.py milvus_coop/serving/triton/requirements.txt milvus_coop/serving/triton/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem --mount=type=cache,target=/root/.cache/pip \
    if [ -e /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && MILVUS_COOP_CACHE=/opt/triton python3 -c 'from milvus_coop.serving.triton.install import find_triton; find_triton()'

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="milvus-coop triton-cpu" \
      org.opencontainers.image.description="Triton Inference Server with the models of a milvus-coop bundle, without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/milvus-coop /opt/milvus-coop
COPY --from=tritonserver /opt/triton /opt/triton
ENV PATH=/opt/milvus-coop/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MILVUS_COOP_CACHE=/opt/triton
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000 8001 8002
# The check asks for each model, because the server reports ready even if a model is not.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-c", "import urllib.request as u; [u.urlopen(f'http://localhost:8000/v2/models/{m}/ready', timeout=4) for m in ('text_encoder', 'image_encoder', 'cross_encoder')]"]
ENTRYPOINT ["milvus-coop"]
CMD ["triton", "serve", "--host", "0.0.0.0"]
