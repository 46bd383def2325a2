#!/usr/bin/env bash
# Does pretraining help a joint network on real images? Two ways to spend the same training time on Flickr8k, on 2 CPU cores:
#   plain   be-nce and ce-block, starting from a text checkpoint
#   then    mlm and itm first (before), then be-nce and ce-block
# The backbone is frozen, and its features are computed once. Each run ends with a line of dev figures; the test split is not read.
#
#   bash benchmarks/flickr8k.sh captions.jsonl MINILM [WORK]
#
# captions.jsonl: as docs/training.md describes it. MINILM: a folder with all-MiniLM-L6-v2 in safetensors. PYTHON chooses the interpreter.
set -euo pipefail
captions=${1:?captions.jsonl is missing}
init=${2:?the folder of the text checkpoint is missing}
work=${3:-build/flickr8k}
common=(--data "jsonl:$captions" --vision efficientnet-lite0 --batch 128 --max-length 24 --warm-up 20 --seed 0)
text=(--init "$init" --layers 3)
cooperative=(--order be-nce,ce-block --eval-every 60)

train() { # NAME OPTIONS...
    local name=$1
    shift
    echo "== $name"
    "${PYTHON:-python}" -m milvus_coop train joint "${common[@]}" --run "$work/$name" "$@"
}

train plain "${text[@]}" "${cooperative[@]}" --rounds "${ROUNDS_PLAIN:-160}"
train before "${text[@]}" --order mlm,itm --rounds "${ROUNDS_BEFORE:-60}" --eval-every 60 --dev-queries 50
train then --init "$work/before" "${cooperative[@]}" --rounds "${ROUNDS_THEN:-90}"
