#!/usr/bin/env bash
# `personlab train` on the TPU that TPU_NAME names ('local' on a TPU VM): compiled steps, bfloat16 in the backbone.
# Usage: TPU_NAME=local scripts/train_tpu.sh --config coco --records records/train --workdir runs/coco
set -euo pipefail
exec python "$(dirname "$0")/train.py" --set train.strategy=tpu --set train.jit_compile=true --set train.mixed_precision=bfloat16 "$@"
