#!/usr/bin/env bash
# Runs `personlab train` on the TPU that TPU_NAME names ('local' on a TPU VM), with compiled steps
# and a bfloat16 backbone.
# Usage: TPU_NAME=local scripts/train_tpu.sh --config coco --records records/train --workdir runs/coco
set -euo pipefail
exec python "$(dirname "$0")/train.py" --set train.strategy=tpu --set train.jit_compile=true --set train.mixed_precision=bfloat16 "$@"
