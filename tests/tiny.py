"""What makes tests take seconds: settings of a network, records and a run; exports in part."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

TINY = [
    "data.view_size=97",
    "data.workers=1",
    "data.shuffle_records=16",
    "targets.radius=8",
    "targets.stride=8",
    "model.backbone=small",
    "model.alpha=0.25",
    "model.output_stride=8",
    "model.weights=null",
    "model.middle_layer=null",
    "train.freeze_batch_norm=false",
    "train.optimizer=adam",
    "train.batch_size=2",
    "train.log_every=2",
    "train.steps=4",
    "predict.longer_side=97",
]
"""Overrides that make everything small."""


def flags(*sections: str) -> list[str]:
    """TINY as options of a command that uses some sections; of all by default."""
    chosen = [each for each in TINY if not sections or each.partition(".")[0] in sections]
    return [part for each in chosen for part in ("--set", each)]


@contextlib.contextmanager
def saved_model_left_out() -> Iterator[None]:
    """Exports write everything but the SavedModel, for tests that do not look at it: tracing the
    decoder takes longer than all the rest.
    """
    package = "personlab_keras.export.saved_model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            f"{package}.signatures.save",
            lambda network, config, skeleton, folder: Path(folder).mkdir(),
        )
        patch.setattr(f"{package}.tf_serving.write_extras", lambda *_: None)
        yield
