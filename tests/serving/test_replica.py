"""The batches of a replica, without Ray."""

import json

import numpy as np
import pytest

from personlab_keras.config import PredictConfig

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="needs the extra `serve`")


class _Picky:
    """A network that fails on any input with red in it."""

    def predict_on_batch(self, inputs):
        if (inputs[..., 0] > inputs[..., 1] + 100).any():
            raise MemoryError("no room\nfor red")
        cells = tuple((side - 1) // 16 + 1 for side in inputs.shape[1:3])
        channels = {
            "heatmaps": 17,
            "short_offsets": 34,
            "mid_offsets": 64,
            "long_offsets": 34,
            "segmentation": 1,
        }
        return {
            name: np.zeros((len(inputs), *cells, count), np.float32)
            for name, count in channels.items()
        }


def test_an_image_that_fails_does_not_fail_its_batch():
    from personlab_keras.inference.predict import Predictor
    from personlab_keras.serving.messages import RequestOptions
    from personlab_keras.serving.replica import Job, answer_all

    good, bad = np.full((40, 60, 3), 90, np.uint8), np.zeros((40, 60, 3), np.uint8)
    bad[..., 0] = 250
    jobs = [
        Job(good, RequestOptions()),
        Job(bad, RequestOptions()),
        Job(good, RequestOptions(masks=False)),
    ]
    answers = answer_all(Predictor(_Picky(), options=PredictConfig(longer_side=65)), jobs)
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert json.loads(answers[0].body) == {"width": 60, "height": 40, "people": []}
    assert json.loads(answers[1].body) == {"error": "MemoryError: no room"}
    assert [answer.batch for answer in answers] == [3, 0, 0]
