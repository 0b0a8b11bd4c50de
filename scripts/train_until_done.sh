#!/usr/bin/env bash
# Runs `personlab train` for a scheduler that restarts what fails. A run that was stopped before its
# last step ends with status 75 here, where `personlab train` has 0.
# Usage: scripts/train_until_done.sh --config tpu --records records/train --workdir runs/tpu
set -uo pipefail
said=$(mktemp)
personlab train "$@" > >(tee "$said") &
process=$!
trap 'kill -TERM "$process"' TERM
wait "$process"
status=$?
# A signal ends `wait` before the process has saved.
while kill -0 "$process" 2>/dev/null; do
  wait "$process"
  status=$?
done
((status)) && exit "$status"
sleep 1  # for tee
grep --quiet ': trained; next' "$said" || exit 75
