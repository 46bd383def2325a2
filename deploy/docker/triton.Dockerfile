# Triton with TensorRT plans, for NVIDIA GPUs. NOT BUILT YET: neither NVIDIA's registry nor a GPU was available. These parts were run: both
# `milvus-coop` steps of the entrypoint (tests/deploy/test_triton_entrypoint.py), and the graphs through TensorRT-RTX (tests/plans).
#
#   docker build -f deploy/docker/triton.Dockerfile -t milvus-coop/triton:0.1.0 .
#
# The base is pinned by tag, since the digest could not be read. Pin yours with --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver@sha256:...,
# as `docker buildx imagetools inspect` shows it. Plans fit only the TensorRT of this image, so another image builds them again.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.10-py3

FROM ${TRITON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="milvus-coop triton" \
      org.opencontainers.image.description="Triton Inference Server that builds TensorRT plans of a milvus-coop bundle and serves them" \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-NVIDIA-Deep-Learning-Container-License" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /opt/milvus-coop/src
COPY deploy/docker/locks/build.txt deploy/docker/locks/triton.txt pyproject.toml README.md LICENSE ./
COPY milvus_coop milvus_coop
COPY examples/images examples/images
# The packages go into a separate folder, so that those of Triton's Python backends stay unchanged. The secrets are optional; gateway.Dockerfile
# explains them, and the hashes. The last command adds the Python bindings of exactly the TensorRT that Triton has, as `build-plans` demands;
# this version is known only here, so it has no hash.
ENV PYTHONPATH=/opt/milvus-coop/packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem --mount=type=cache,target=/root/.cache/pip \
    if [ -e /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_LOCKED="--quiet --no-deps --only-binary=:all: --require-hashes" \
    && python3 -m pip install $PIP_LOCKED --target /tmp/build -r build.txt \
    && python3 -m pip install $PIP_LOCKED --target /opt/milvus-coop/packages -r triton.txt \
    && PYTHONPATH=/tmp/build python3 -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /tmp/wheels . \
    && python3 -m pip install --quiet --no-deps --no-index --target /opt/milvus-coop/packages /tmp/wheels/*.whl \
    && version="$(python3 -c 'from milvus_coop.serving.plans.libraries import LIBRARY_FOLDERS, library_versions; print(library_versions(LIBRARY_FOLDERS)[-1])')" \
    && python3 -m pip install --quiet --target /opt/milvus-coop/packages "tensorrt==${version}.*" \
    && rm -r /opt/milvus-coop/src/* /tmp/build /tmp/wheels
COPY --chmod=0755 deploy/docker/triton-entrypoint.sh /opt/milvus-coop/
# The volume with repository and plans gets this owner, the image's own user triton-server.
RUN install -d -o 1000 -g 1000 /models
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 1000:1000
VOLUME /models
EXPOSE 8000 8001 8002
# The period is long because the first start builds plans.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m CMD ["python3", "-c", "import urllib.request as u; [u.urlopen(f'http://localhost:8000/v2/models/{m}/ready', timeout=4) for m in ('text_encoder', 'image_encoder', 'cross_encoder')]"]
ENTRYPOINT ["/opt/milvus-coop/triton-entrypoint.sh"]
