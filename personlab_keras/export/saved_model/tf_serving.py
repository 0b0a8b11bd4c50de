"""Files for TensorFlow Serving beside a SavedModel: warm-up requests and batching parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from personlab_keras.export.saved_model.signatures import (
    BYTES,
    BYTES_SIGNATURE,
    IMAGE,
    MAPS_SIGNATURE,
    PEOPLE_SIGNATURE,
)

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
BATCHING_FILE = "batching.config"

_BATCHING = """\
# tensorflow_model_server --enable_batching --batching_parameters_file=batching.config
# Requests of people_from_bytes share a batch whatever the sizes of their images; one that fails fails the batch.
max_batch_size { value: 4 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: 2 }
"""


def predict_request(
    signature: str, name: str, value: np.ndarray | list[bytes], model: str = "personlab"
) -> predict_pb2.PredictRequest:
    """Builds a gRPC request to one of the signatures.

    Args:
        signature: name of the signature.
        name: name of its only input, `IMAGE` or `BYTES`.
        value: value of the input.
        model: name of the model on the server.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def write_extras(folder: str | Path, longer_side: int) -> None:
    """Writes both files into the folder of a SavedModel.

    The first request to a signature is many times slower than the next one. So the server sends one
    of each to itself when it loads the model, with an image of the network's usual size.

    Args:
        folder: folder of the SavedModel.
        longer_side: longer side of that image in pixels.
    """
    image = np.full((longer_side * 3 // 4 + 1, longer_side, 3), 128, np.uint8)
    requests = [
        predict_request(MAPS_SIGNATURE, IMAGE, image[None].astype(np.float32)),
        predict_request(PEOPLE_SIGNATURE, IMAGE, image[None]),
        predict_request(BYTES_SIGNATURE, BYTES, [tf.io.encode_jpeg(image).numpy()]),
    ]
    path = Path(folder) / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
    (Path(folder) / BATCHING_FILE).write_text(_BATCHING, encoding="ascii")
