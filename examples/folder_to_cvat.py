"""Turns a folder of photos into a task for CVAT: a zip of the images, and a COCO file of the people
found, to upload as "COCO Keypoints 1.0".

    python examples/folder_to_cvat.py photos --out task
"""

import argparse
import zipfile
from pathlib import Path

import personlab_keras as personlab
from personlab_keras.inference.predict_files import predict_files
from personlab_keras.io.images import list_images
from personlab_keras.results.writers import make_writers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path("task"))
    parser.add_argument("--model", default="bodypix-mobilenet-v1-050", help="folder, file or name")
    parser.add_argument("--least-score", type=float, default=0.4, help="leave out doubtful people")
    options = parser.parse_args()
    predictor = personlab.load(options.model, [f"decode.score_threshold={options.least_score}"])
    writers = make_writers(["coco"], options.out, predictor.skeleton)
    summary = predict_files(predictor, [options.photos], options.out, writers=writers)
    for writer in writers:
        writer.finish()
    with zipfile.ZipFile(options.out / "images.zip", "w") as archive:
        for path in list_images([options.photos]):
            archive.write(path, path.name)
    print(f"{options.out}: images.zip, coco.json: {summary.done} images, {summary.people} people")


if __name__ == "__main__":
    main()
