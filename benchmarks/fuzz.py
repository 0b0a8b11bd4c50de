"""Fuzzes a reader of files or of requests, guided by coverage (atheris, libFuzzer).

    pip install atheris
    python benchmarks/fuzz.py yaml --seconds 600 --corpus corpus/yaml

An input may be refused with an InputError of one line; any other exception ends the run, and
libFuzzer writes the input to the current folder. The corpus is kept in the folder, which starts
with a few seeds made here. tests/test_fuzz.py tries the same readers in every run of the tests,
without atheris.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

os.environ["NUMBA_DISABLE_JIT"] = "1"  # atheris sees Python alone

with atheris.instrument_imports(include=["personlab_keras", "h11"]):
    import cv2
    import h11
    import numpy as np
    from starlette.requests import Request

    from personlab_keras.annotations.coco import read_coco
    from personlab_keras.config import Config, config_from_dict, config_to_yaml
    from personlab_keras.config import apply_overrides as _apply
    from personlab_keras.data.shard_files import read_shard
    from personlab_keras.data.tfrecords import Damage, frame
    from personlab_keras.decoder import decode
    from personlab_keras.errors import InputError
    from personlab_keras.io.exif import exif_orientation
    from personlab_keras.io.files import parse_yaml
    from personlab_keras.io.images import decode_image
    from personlab_keras.io.limits import check_onnx
    from personlab_keras.method.maps import OUTPUTS, unpack
    from personlab_keras.method.skeleton import COCO_PERSON
    from personlab_keras.model.pretrained.onnx_file import read_onnx
    from personlab_keras.model.pretrained.tfjs import read_tfjs
    from personlab_keras.model_directory import describe, parse_description
    from personlab_keras.serving.app import _request_options

SCRATCH = Path(tempfile.mkdtemp())
STRIDE = 8


def image(data: bytes) -> None:
    decode_image(data, "input", max_pixels=1_000_000)


def exif(data: bytes) -> None:
    assert 1 <= exif_orientation(b"\xff\xd8\xff\xe1\x00\x40Exif\x00\x00" + data) <= 8


def coco(data: bytes) -> None:
    path = SCRATCH / "annotations.json"
    path.write_bytes(data)
    read_coco(path, COCO_PERSON)


def tfrecord(data: bytes) -> None:
    path = SCRATCH / "records"
    path.write_bytes(data)
    whole = [record for record in read_shard(path) if not isinstance(record, Damage)]
    assert all(frame(record) in data for record in whole)


def yaml(data: bytes) -> None:
    values = parse_yaml(data, "input")
    if isinstance(values, dict):
        config_from_dict(values, "input")


def setting(data: bytes) -> None:
    _apply(Config(), [data.decode("utf-8", "replace")])


def tfjs(data: bytes) -> None:
    path = SCRATCH / "model.json"
    path.write_bytes(data)
    (SCRATCH / "shard.bin").write_bytes(bytes(16))
    read_tfjs(path)


def onnx(data: bytes) -> None:
    path = SCRATCH / "model.onnx"
    path.write_bytes(data)
    check_onnx(path, 1 << 28)
    read_onnx(path)


def description(data: bytes) -> None:
    parse_description(data, "input")


def maps(data: bytes) -> None:
    """The decoder on maps whose numbers are the bytes, NaN and infinities among them."""
    channels = sum(count(COCO_PERSON) for count in OUTPUTS.values())
    values = np.resize(
        np.frombuffer(data[: len(data) // 2 * 2] + bytes(4), np.float16), 25 * channels
    )
    flat, at = {}, 0
    for name, count in OUTPUTS.items():
        size = 25 * count(COCO_PERSON)
        flat[name] = values[at : at + size].reshape(5, 5, -1).astype(np.float32)
        at += size
    for person in decode(unpack(flat, STRIDE, COCO_PERSON)):
        assert np.isfinite(person.score)


def http(data: bytes) -> None:
    """The head of a request, by the parser of the server and its checks before the body."""
    connection = h11.Connection(h11.SERVER, 16_384)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return
    if isinstance(event, h11.Request):
        query = event.target.partition(b"?")[2]
        scope = {"type": "http", "query_string": query, "headers": list(event.headers)}
        _request_options(Request(scope), has_masks=True)


def _png() -> bytes:
    return bytes(cv2.imencode(".png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3))[1])


def _onnx() -> bytes:
    """A convolution, and a constant that the graph makes."""
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.zeros((1, 1, 3, 3), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("ConstantOfShape", ["sides"], ["c"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 5, 5])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.int64([8]), "sides"),
        ],
    )
    return bytes(helper.make_model(graph).SerializeToString())


def _description() -> bytes:
    return describe(Config(), COCO_PERSON, {"source": "nobody"})


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 60}],
    "annotations": [
        {
            "id": 11,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "area": 400.0,
            "bbox": [20, 10, 20, 20],
            "keypoints": [21, 12, 2] * 17,
            "segmentation": [[20, 10, 40, 10, 40, 30, 20, 30]],
        }
    ],
    "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}],
}
TFJS = {
    "modelTopology": {"node": [{"name": "a", "op": "Const", "attr": {"dtype": {"i": "1"}}}]},
    "weightsManifest": [
        {
            "paths": ["shard.bin"],
            "weights": [{"name": "a", "shape": [2, 2], "dtype": "float32"}],
        }
    ],
}
TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "image": (image, lambda: [_png()]),
    "exif": (
        exif,
        lambda: [b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00"],
    ),
    "coco": (coco, lambda: [json.dumps(COCO).encode()]),
    "tfrecord": (
        tfrecord,
        lambda: [frame(b"abc") + frame(b""), frame(b"abc")[:-1] + frame(b"d" * 9)],
    ),
    "yaml": (yaml, lambda: [config_to_yaml(Config()).encode(), b"a: &a [1]\nb: [*a, *a]\n"]),
    "setting": (setting, lambda: [b"train.steps=10", b"data.scale=[0.8, 1.2]"]),
    "tfjs": (tfjs, lambda: [json.dumps(TFJS).encode()]),
    "onnx": (onnx, lambda: [_onnx()]),
    "description": (description, lambda: [_description()]),
    "maps": (maps, lambda: [np.linspace(-4, 4, 500).astype(np.float16).tobytes()]),
    "http": (http, lambda: [b"POST /v1/people?masks=true HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
}
"""Name -> what reads the bytes, and seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600, help="default: 600")
    parser.add_argument("--corpus", type=Path, help="folder of inputs (default: a new one)")
    options = parser.parse_args()
    read, seeds = TARGETS[options.target]
    corpus = options.corpus or SCRATCH / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def once(data: bytes) -> Any:
        try:
            read(data)
        except InputError as error:
            if "\n" in str(error):
                raise
        except Exception as error:
            if type(error).__name__ != "HTTPException":  # how the server refuses
                raise

    arguments = [sys.argv[0], f"-max_total_time={options.seconds}", "-max_len=8192"]
    atheris.Setup([*arguments, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
