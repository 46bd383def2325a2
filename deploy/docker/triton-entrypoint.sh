#!/bin/sh
# Writes the model repository of the bundle that MILVUS_COOP_BUNDLE names, builds the plans that are missing or no longer fit the GPU,
# TensorRT or the bundle, and becomes tritonserver. The second start finds the plans in the volume and takes seconds.
set -eu
models=${MODEL_REPOSITORY:-/models}
python3 -m milvus_coop triton export --platform tensorrt --out "$models"
python3 -m milvus_coop triton build-plans "$models"
unset PYTHONPATH # what is there is for milvus-coop
exec tritonserver --model-repository="$models" --model-control-mode=none --disable-auto-complete-config "$@"
