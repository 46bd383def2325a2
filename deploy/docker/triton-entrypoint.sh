#!/bin/sh
# Writes the model repository of the bundle that MILVUS_COOP_BUNDLE names, builds the plans that are missing or no longer fit the GPU,
# TensorRT or the bundle, and starts tritonserver. The second start finds the plans in the volume and takes seconds.
set -eu
models=${MODEL_REPOSITORY:-/models}
python3 -m milvus_coop triton export --platform tensorrt --out "$models"
python3 -m milvus_coop triton build-plans "$models"
unset PYTHONPATH # the packages there are for milvus-coop only
exec tritonserver --model-repository="$models" --model-control-mode=none --disable-auto-complete-config "$@"
