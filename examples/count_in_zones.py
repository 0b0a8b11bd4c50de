"""Counts the people in zones of a video. A person is in a zone if the middle of the lower edge of
the box is: where the feet are.

    pip install 'personlab-keras[litert,track]'
    python examples/count_in_zones.py clip.mp4 --zone 0,0,400,600 --zone 400,0,800,600
"""

import argparse

import numpy as np
import supervision as sv

import personlab_keras as personlab
from personlab_keras.tracking import Tracker


def rectangle(text: str) -> np.ndarray:
    """LEFT,TOP,RIGHT,BOTTOM as a polygon."""
    left, top, right, bottom = map(int, text.split(","))
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video")
    parser.add_argument("--zone", type=rectangle, action="append", required=True)
    parser.add_argument("--model", default="bodypix-mobilenet-v1-050", help="folder, file or name")
    options = parser.parse_args()
    predictor = personlab.load(options.model)
    info = sv.VideoInfo.from_video_path(options.video)
    tracker = Tracker(rate=info.fps, skeleton=predictor.skeleton)
    zones = [sv.PolygonZone(polygon=polygon) for polygon in options.zone]
    visitors: list[set[int]] = [set() for _ in zones]
    for i, frame in enumerate(sv.get_video_frames_generator(options.video)):
        found = predictor(np.ascontiguousarray(frame[..., ::-1]))
        people = [each for each in tracker.update(found, i / info.fps) if each.id is not None]
        if people:
            _, detections = found.replaced(people).to_supervision()
            for zone, seen in zip(zones, visitors, strict=True):
                seen.update(detections.tracker_id[zone.trigger(detections)].tolist())
    for number, seen in enumerate(visitors, start=1):
        print(f"zone {number}: {len(seen)} people")


if __name__ == "__main__":
    main()
