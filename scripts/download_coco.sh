#!/usr/bin/env bash
# Downloads COCO 2017 images and keypoint annotations: about 19 GB, twice that while unpacking.
# Usage: scripts/download_coco.sh FOLDER
set -euo pipefail
mkdir -p "${1:?a folder to download into}"
cd "$1"
for part in zips/train2017 zips/val2017 annotations/annotations_trainval2017; do
  archive=$(basename "$part").zip
  curl --fail --location --continue-at - --output "$archive" "http://images.cocodataset.org/$part.zip"
  unzip -q -n "$archive"
  rm "$archive"
done
