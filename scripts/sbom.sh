#!/usr/bin/env bash
# Writes a software bill of materials (CycloneDX, JSON) of an installation from the pinned versions:
#
#   scripts/sbom.sh sbom.json [EXTRA,...]
#
# pip's own settings choose the registry.
set -euo pipefail
out=$(realpath "${1:?the file to write}")
extras=${2:+[$2]}
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Without pip in it, which would be listed.
python3 -m venv --without-pip "$work/installed"
python3 -m venv "$work/tool"
"$work/tool/bin/pip" --python "$work/installed/bin/python" install --quiet \
  --constraint requirements.txt ".$extras"
"$work/tool/bin/pip" install --quiet --require-hashes --requirement .github/sbom-hashes.txt
"$work/tool/bin/cyclonedx-py" environment --output-reproducible --output-format JSON \
  --output-file "$out" "$work/installed/bin/python"
