#!/usr/bin/env bash
# Runs `personlab train` on all GPUs of this machine, with compiled steps and a bfloat16 backbone.
# Usage: scripts/train_gpu.sh --config coco --records records/train --workdir runs/coco
set -euo pipefail
exec python "$(dirname "$0")/train.py" --set train.strategy=auto --set train.jit_compile=true --set train.mixed_precision=bfloat16 "$@"
