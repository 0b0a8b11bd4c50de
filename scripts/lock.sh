#!/usr/bin/env bash
# Writes the hashes of all files of the pinned versions: of requirements.txt, with what builds the
# package, into requirements-hashes.txt; of the tools of the workflows into .github/*-hashes.txt.
# Needs uv; takes half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
  uv pip compile --quiet --no-config --generate-hashes --python-version 3.11.9 --no-annotate \
    --custom-compile-command scripts/lock.sh --output-file "$@" -
}
{ grep -v '^#' requirements.txt; printf 'setuptools\nwheel\n'; } \
  | lock requirements-hashes.txt --no-deps --upgrade
printf 'build\ntwine\nsetuptools\nwheel\n' | lock .github/release-hashes.txt --upgrade
echo 'cyclonedx-bom>=7,<8' | lock .github/sbom-hashes.txt --upgrade
echo 'pip-audit>=2.10,<3' | lock .github/audit-hashes.txt --upgrade
