# Milvus for tests where no registry can be reached: the server wheel of PyPI, with the environment variables of the official image.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem --mount=type=cache,target=/root/.cache/pip \
    if [ -e /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && python3 -m venv /opt/milvus \
    && /opt/milvus/bin/pip install --disable-pip-version-check --quiet -c constraints.txt milvus==2.3.5 'pymilvus==3.0.2' 'setuptools<81'

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/milvus /opt/milvus
COPY tests/docker/milvus_server.py /opt/milvus/
ENV PATH=/opt/milvus/bin:$PATH PYTHONUNBUFFERED=1
RUN install -d -o 10001 -g 10001 /var/lib/milvus
USER 10001:10001
ENTRYPOINT ["python3", "/opt/milvus/milvus_server.py"]
