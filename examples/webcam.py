"""Shows the people before a camera, with ids, in a window. Press q to end.

pip install 'personlab-keras[litert,track]' && python examples/webcam.py
"""

import argparse
import time

import cv2

import personlab_keras as personlab
from personlab_keras.tracking import Tracker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camera", default="0", help="number of the camera, or a video file")
    parser.add_argument("--model", default="bodypix-mobilenet-v1-050", help="folder, file or name")
    parser.add_argument(
        "--longer-side", type=int, default=401, help="input size: smaller is faster"
    )
    parser.add_argument("--frames", type=int, help="end after so many frames, without a window")
    options = parser.parse_args()
    settings = [f"predict.longer_side={options.longer_side}", "predict.scales=[1.0]"]
    predictor = personlab.load(options.model, settings)
    camera = cv2.VideoCapture(int(options.camera) if options.camera.isdecimal() else options.camera)
    tracker = Tracker(rate=camera.get(cv2.CAP_PROP_FPS) or 25.0, skeleton=predictor.skeleton)
    began, count = time.monotonic(), 0
    while options.frames is None or count < options.frames:
        is_read, frame = camera.read()
        if not is_read:
            break
        found = predictor(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        found = found.replaced(tracker.update(found, time.monotonic() - began))
        count += 1
        if options.frames is None:
            cv2.imshow("people", cv2.cvtColor(found.draw(), cv2.COLOR_RGB2BGR))
            if cv2.waitKey(1) == ord("q"):
                break
    print(f"{count} frames, {count / (time.monotonic() - began):.1f} frames/s")


if __name__ == "__main__":
    main()
