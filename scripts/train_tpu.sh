#!/usr/bin/env bash
# Runs `personlab train` through JAX on all chips of this machine's TPU slice, with a bfloat16
# backbone. On a slice of several hosts, start it on each (docs/tpu.md).
# Usage: scripts/train_tpu.sh --config tpu --records records/train --workdir runs/tpu
set -euo pipefail
export KERAS_BACKEND=jax
exec python "$(dirname "$0")/train.py" --set train.strategy=tpu --set train.mixed_precision=bfloat16 "$@"
