import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import TINY

from personlab_keras.config import TrainConfig, load_config
from personlab_keras.data.pipeline import make_dataset, training_examples
from personlab_keras.data.records import META_FILE, read_meta
from personlab_keras.data.stream import Part
from personlab_keras.errors import InputError, Stopped
from personlab_keras.export.export import export_model, export_source
from personlab_keras.inference.predict import load
from personlab_keras.io.files import sole_writer
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.model.backbones import build_backbone
from personlab_keras.model.losses import personlab_losses
from personlab_keras.model.network import build_model, has_batch_norm
from personlab_keras.model_directory import read_model_directory
from personlab_keras.training import optimizers
from personlab_keras.training.callback import RunCallback
from personlab_keras.training.checkpoints import latest_checkpoint
from personlab_keras.training.optimizers import build_optimizer, learning_rate
from personlab_keras.training.run_log import SCORE, read_log, verdict
from personlab_keras.training.train import train
from personlab_keras.training.training_model import TrainingModel
from personlab_keras.training.validation import Validation, other_size
from personlab_keras.training.workdir import load_workdir

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def weights(network):
    return [keras.ops.convert_to_numpy(variable) for variable in network.variables]


def test_a_run_leaves_config_log_checkpoint_and_tensorboard(workdir):
    assert load_config(workdir / "config.yaml").model.target_stride == 8
    assert latest_checkpoint(workdir).name == "step-00000004.npz"
    assert list((workdir / "tensorboard").iterdir())
    log = read_log(workdir)
    assert [line["step"] for line in log] == [2, 4]
    # The total is the paper's weighted sum of the parts.
    weight = {
        "heatmaps": 4,
        "segmentation": 2,
        "short_offsets": 1,
        "mid_offsets": 0.25,
        "long_offsets": 0.125,
    }
    for line in log:
        np.testing.assert_allclose(
            line["loss"], sum(w * line[f"loss/{name}"] for name, w in weight.items()), rtol=1e-4
        )


def test_a_resumed_run_equals_an_uninterrupted_one(records, tiny_config, tmp_path):
    whole = train(records, tmp_path / "whole", tiny_config)
    # Stopped after two of four steps, with the schedule of four.
    half = replace(tiny_config, train=replace(tiny_config.train, checkpoint_every=2))
    stopped_at = 2

    class Stop(Exception):
        pass

    def stop(log):
        if log["step"] > stopped_at:
            raise Stop

    with pytest.raises(Stop):
        train(records, tmp_path / "resumed", half, report=stop)
    assert latest_checkpoint(tmp_path / "resumed").name == "step-00000002.npz"
    resumed = train(records, tmp_path / "resumed", half)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [line["step"] for line in read_log(tmp_path / "resumed")] == [2, 4]


def test_a_run_that_goes_on_with_other_batches_sees_what_comes_next(
    records, tiny_config, tmp_path, monkeypatch
):
    begun = []

    def noted(*arguments, original=make_dataset, **named):
        begun.append(named["first_example"])
        return original(*arguments, **named)

    monkeypatch.setattr("personlab_keras.training.train.make_dataset", noted)
    for steps, batch_size in ((2, 2), (4, 5), (6, 1)):
        train(
            records,
            tmp_path,
            replace(
                tiny_config, train=replace(tiny_config.train, steps=steps, batch_size=batch_size)
            ),
        )
    assert begun == [0, 4, 14]
    with np.load(latest_checkpoint(tmp_path)) as saved:
        assert (int(saved["step"]), int(saved["example"])) == (6, 16)
        assert json.loads(str(saved["versions"]))["keras"] == keras.__version__


def test_training_reduces_every_loss(records, tiny_config, tmp_path):
    config = replace(
        tiny_config, train=replace(tiny_config.train, steps=40, log_every=10, learning_rate=3e-3)
    )
    train(records, tmp_path, config)
    first, *_, last = read_log(tmp_path)
    for name in first:
        if name.startswith("loss"):
            assert last[name] < first[name], name


def test_the_exported_weights_are_the_averaged_ones(records, tiny_config, tmp_path):
    config = replace(tiny_config, train=replace(tiny_config.train, ema=0.9))
    trained = weights(train(records, tmp_path, config))
    network, _, step = load_workdir(tmp_path)
    assert step == 4
    for a, b in zip(trained, weights(network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_is_logged(records, tiny_config, tmp_path):
    config = replace(tiny_config, train=replace(tiny_config.train, validate_every=2))
    train(records, tmp_path, config, val_records=records)
    lines = [line for line in read_log(tmp_path) if "validation/loss" in line]
    assert [line["step"] for line in lines] == [2, 4]
    assert 0.0 <= lines[-1]["validation/keypoint_AP"] <= 1.0


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_step_runs_on_each_backend_and_all_start_alike(backend, records, tmp_path):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    script = (
        "import sys, json; from personlab_keras.config import load_config; from personlab_keras.training.train import train;"
        "c = load_config(None, json.loads(sys.argv[3])); train(sys.argv[1], sys.argv[2], c, val_records=sys.argv[1])"
    )
    overrides = json.dumps([*TINY, "train.steps=2", "train.ema=0.9"])
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run(
        [sys.executable, "-c", script, str(records), str(tmp_path), overrides],
        check=True,
        env=environment,
        cwd=ROOT,
    )
    first, last = read_log(tmp_path)
    assert np.isfinite(list(first.values())).all()
    assert np.isfinite(last["validation/loss"])
    # The same data and loss on all; only the random start differs.
    assert 1.0 < first["loss"] < 10.0


def test_torch_finds_the_same_people(model_directory, scenes, tmp_path):
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    found = {}
    for backend in ("tensorflow", "torch"):
        command = [
            *("-m", "personlab_keras.cli", "evaluate", "--model", model_directory, "--limit", "3"),
            *("--annotations", scenes / "annotations.json", "--images", scenes / "images"),
            *("--out", tmp_path / backend, "--set=decode.peak_threshold=0"),
            "--set=decode.max_people=3",
        ]
        environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *map(str, command)], check=True, env=environment)
        found[backend] = json.loads((tmp_path / backend / "keypoints_results.json").read_text())
    assert len(found["torch"]) == len(found["tensorflow"]) > 0
    for ours, theirs in zip(found["tensorflow"], found["torch"], strict=True):
        np.testing.assert_allclose(theirs["keypoints"], ours["keypoints"], atol=0.1)
        assert theirs["score"] == pytest.approx(ours["score"], abs=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_is_traced_once(records, tiny_config, tmp_path, monkeypatch, compiled):
    """Over several intervals, with averaging, a validation and a checkpoint between them."""
    settings = replace(
        tiny_config.train,
        steps=8,
        ema=0.9,
        validate_every=2,
        checkpoint_every=2,
        jit_compile=compiled,
    )
    traces, original = [], TrainingModel.compute_loss

    def counted(self, *arguments, **named):
        traces.append(len(read_log(tmp_path)))
        return original(self, *arguments, **named)

    monkeypatch.setattr(TrainingModel, "compute_loss", counted)
    train(records, tmp_path, replace(tiny_config, train=settings), val_records=records)
    assert traces == [0]  # before the first line of the log


def test_the_same_seed_gives_the_same_losses(records, tiny_config, tmp_path):
    config = replace(tiny_config, train=replace(tiny_config.train, steps=6, log_every=1))
    logs = []
    for name, seed in (("one", 4), ("two", 4), ("other", 5)):
        train(records, tmp_path / name, replace(config, train=replace(config.train, seed=seed)))
        logs.append([line["loss"] for line in read_log(tmp_path / name)])
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_compiled_steps_give_the_same_losses(records, tiny_config, tmp_path):
    losses = []
    for compiled in (False, True):
        config = replace(tiny_config, train=replace(tiny_config.train, jit_compile=compiled))
        train(records, tmp_path / str(compiled), config)
        losses.append([line["loss"] for line in read_log(tmp_path / str(compiled))])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_frozen_batch_norm_stays(records, tiny_config, tmp_path):
    config = replace(tiny_config, train=replace(tiny_config.train, freeze_batch_norm=True))
    network = train(records, tmp_path, config, init=build_model(config.model))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.moving_mean), 0.0)
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.gamma), 1.0)


def test_batch_norm_of_random_weights_cannot_be_frozen(records, tiny_config, tmp_path):
    config = replace(tiny_config, train=replace(tiny_config.train, freeze_batch_norm=True))
    with pytest.raises(
        InputError, match=r"model.weights=null has none. Set train.freeze_batch_norm"
    ):
        train(records, tmp_path, config)
    network = build_model(config.model)
    path = str(tmp_path / "small.weights.h5")
    build_backbone("small", 8, 0.25).save_weights(path)
    assert has_batch_norm(network)
    train(records, tmp_path / "run", replace(config, model=replace(config.model, weights=path)))


def test_mixed_precision_keeps_outputs_and_weights_in_float32(records, tiny_config, tmp_path):
    config = replace(tiny_config, train=replace(tiny_config.train, mixed_precision="bfloat16"))
    network = train(records, tmp_path, config)
    assert {str(variable.dtype) for variable in network.trainable_variables} == {"float32"}
    assert {str(output.dtype) for output in network.output.values()} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in convolutions if "head" not in layer.name} == {
        "bfloat16"
    }
    assert {layer.compute_dtype for layer in convolutions if "head" in layer.name} == {"float32"}
    image, targets = next(iter(make_dataset(records, 2, training=True)))
    losses = personlab_losses(targets, network(image), config.targets.radius)
    assert {keras.backend.standardize_dtype(loss.dtype) for loss in losses.values()} == {"float32"}
    assert any(layer.compute_dtype == "bfloat16" for layer in network.layers)


def test_training_goes_on_from_a_model(
    records, model_directory, tiny_config, tmp_path, monkeypatch
):
    """At a rate of zero, which no setting allows, every weight stays as it was."""
    monkeypatch.setattr(optimizers, "learning_rate", lambda settings: 0.0)
    start = read_model_directory(model_directory).network
    config = replace(tiny_config, train=replace(tiny_config.train, freeze_batch_norm=True))
    network = train(records, tmp_path, config, init=start)
    for a, b in zip(weights(start), weights(network), strict=True):
        np.testing.assert_array_equal(a, b)
    wider = replace(config, model=replace(config.model, alpha=0.5))
    with pytest.raises(InputError, match="the weights are those of another network"):
        train(records, tmp_path / "wider", wider, init=start)


@pytest.mark.parametrize("kept", [("heatmaps", "segmentation"), ("segmentation",)])
def test_outputs_are_kept_as_the_initial_network_gives_them(records, tiny_config, tmp_path, kept):
    """Who keeps everything has nothing to learn; else the annotations move the backbone."""
    start = build_model(tiny_config.model)
    settings = replace(
        tiny_config.train,
        kept_outputs=kept,
        optimizer="sgd",
        learning_rate=0.1,
        freeze_batch_norm=True,
        # The gradient of an absolute error jumps at zero, with the rounding of the last bit.
        **{f"{field}_weight": 0.0 for field in ("short", "mid", "long")},
    )
    config = replace(tiny_config, train=settings)
    network = train(records, tmp_path / "run", config, init=start)
    pairs = zip(weights(start), weights(network), strict=True)
    moved = max(np.abs(a - b).max() for a, b in pairs)
    assert moved < 1e-6 if "heatmaps" in kept else moved > 1e-4
    with pytest.raises(InputError, match="name it with --init, also to resume a run"):
        train(records, tmp_path / "run", config)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0]),
        ("cosine", [1.0, 0.5, 0.0]),
        ("polynomial", [1.0, 0.5**0.9, 0.0]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    settings = TrainConfig(learning_rate=1.0, steps=120, warmup_steps=20, schedule=schedule)
    rate = learning_rate(settings)
    np.testing.assert_allclose([float(rate(step)) for step in (20, 70, 120)], expected, atol=1e-6)
    np.testing.assert_allclose(
        [float(rate(step)) for step in (0, 9, 19)], [0.05, 0.5, 1.0], atol=1e-6
    )


def test_every_step_takes_the_rate_of_its_place_in_the_schedule():
    settings = TrainConfig(
        learning_rate=1.0, momentum=0.0, steps=4, warmup_steps=2, schedule="cosine"
    )
    weight = keras.Variable(np.zeros(1), name="kernel")
    optimizer = build_optimizer(settings)
    optimizer.build([weight])
    reached = []
    for _ in range(4):
        optimizer.apply([keras.ops.ones(1)])
        reached.append(float(keras.ops.convert_to_numpy(weight)[0]))
    # Rises to the peak in two steps; then the cosine over two: (1 + cos 0) / 2, (1 + cos 90°) / 2.
    np.testing.assert_allclose(reached, [-0.5, -1.5, -2.5, -3.0], atol=1e-6)


def test_decay_spares_scales_and_shifts():
    settings = TrainConfig(weight_decay=0.1, learning_rate=1.0, momentum=0.0)
    kernel, bias = (
        keras.Variable(np.ones(2), name="kernel"),
        keras.Variable(np.ones(2), name="bias"),
    )
    optimizer = build_optimizer(settings)
    optimizer.build([kernel, bias])
    optimizer.apply([keras.ops.zeros(2), keras.ops.zeros(2)])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), 0.9, rtol=1e-6)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(bias), 1.0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("targets.radius=9", "radius must be 9, as targets.radius says. The records have: 8"),
        ("targets.stride=4", "stride must be 4, as targets.stride says. The records have: 8"),
        ("train.optimizer=lion", "train.optimizer must be one of sgd, adam. Received: 'lion'"),
        ("train.schedule=steps", "train.schedule must be"),
        ("train.strategy=many", "train.strategy must be"),
        ("train.mixed_precision=float8", "train.mixed_precision must be"),
        ("model.output_stride=4", "output_stride"),
    ],
)
def test_settings_that_do_not_fit(records, tmp_path, override, words):
    with pytest.raises(InputError, match=words):
        train(records, tmp_path / "run", load_config(None, [*TINY, override]))


def test_a_workdir_of_another_network_is_refused(records, workdir):
    with pytest.raises(InputError, match="holds a run with other settings of 'model'"):
        train(records, workdir, load_config(None, [*TINY, "model.alpha=0.5"]))


def test_a_signal_saves_and_the_same_call_goes_on(records, tiny_config, tmp_path, monkeypatch):
    """Stopped in the midst of an interval of the log, with averaging on: the run ends with the
    weights of an uninterrupted one.
    """
    config = replace(
        tiny_config,
        train=replace(tiny_config.train, steps=8, log_every=4, checkpoint_every=8, ema=0.9),
    )
    whole = train(records, tmp_path / "whole", config)
    steps = iter(range(1, 100))

    def send(self, batch, logs=None, original=RunCallback.on_train_batch_end):
        step = next(steps)
        if step in (3, 6):
            os.kill(os.getpid(), signal.SIGTERM if step == 3 else signal.SIGINT)
        original(self, batch, logs)

    monkeypatch.setattr(RunCallback, "on_train_batch_end", send)
    for reached in (3, 6):
        with pytest.raises(
            Stopped, match=f"stopped at step {reached} of 8; the same command resumes"
        ) as caught:
            train(records, tmp_path / "stopped", config)
        assert caught.value.interrupted == (reached == 6)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert latest_checkpoint(tmp_path / "stopped").name == f"step-{reached:08d}.npz"
    begun = []
    resumed = train(
        records, tmp_path / "stopped", config, started=lambda *place: begun.append(place)
    )
    assert begun == [(6, 8)]
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [line["step"] for line in read_log(tmp_path / "stopped")] == [4, 8]


def test_a_loss_that_is_not_finite_names_step_and_records(
    records, tiny_config, tmp_path, monkeypatch
):
    config = replace(
        tiny_config,
        train=replace(
            tiny_config.train, steps=6, log_every=3, checkpoint_every=3, learning_rate=1e-3
        ),
    )
    original = RunCallback.on_train_batch_end

    def spoil(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == 4:  # so that step 5 is the first to see it
            kernel = self.model.network.get_layer("segmentation_head").kernel
            kernel.assign(np.full(kernel.shape, np.nan, np.float32))

    monkeypatch.setattr(RunCallback, "on_train_batch_end", spoil)
    with pytest.raises(InputError) as caught:
        train(records, tmp_path, config)
    said = str(caught.value)
    assert "the loss of step 5 is not finite (segmentation)" in said
    assert "The last checkpoint is step-00000003.npz" in said
    examples = training_examples(
        records, read_meta(records), config.data, config.train.seed, Part(4 * 2)
    )
    for example in examples.take(2).as_numpy_iterator():
        assert f"image {example['image_id']} view {example['view']}" in said
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_loss_out_of_all_proportion_ends_the_run(records, tiny_config, tmp_path, monkeypatch):
    config = replace(
        tiny_config, train=replace(tiny_config.train, steps=9, log_every=3, checkpoint_every=3)
    )
    original = RunCallback.on_train_batch_end

    def spoil(self, batch, logs=None):
        original(self, batch, logs)
        if self.step in (4, 5):
            bias = self.model.network.get_layer("segmentation_head").bias
            bias.assign(np.full(bias.shape, 1e4 if self.step == 4 else 0.0, np.float32))

    monkeypatch.setattr(RunCallback, "on_train_batch_end", spoil)
    with pytest.raises(
        InputError,
        match=r"the loss of step 5 is the largest .* more than 20 times \(train.loss_limit\) .* image \d+ view",
    ):
        train(records, tmp_path / "limited", config)
    assert latest_checkpoint(tmp_path / "limited").name == "step-00000003.npz"
    train(records, tmp_path / "free", replace(config, train=replace(config.train, loss_limit=None)))
    assert latest_checkpoint(tmp_path / "free").name == "step-00000009.npz"


def test_tensorboard_shows_views_with_people(records, tiny_config, tmp_path):
    config = replace(
        tiny_config,
        train=replace(
            tiny_config.train, validate_every=2, shown_views=3, ema=0.9, validate_raw=True
        ),
    )
    train(records, tmp_path, config, val_records=records)
    (events,) = (tmp_path / "tensorboard").iterdir()
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
    assert {
        "loss",
        "loss/heatmaps",
        "learning_rate",
        "data_wait",
        "host_MiB",
        "validation/keypoint_AP",
    } <= found.keys()
    assert [step for step, _ in found["validation"]] == [2, 4]
    width, height, *pictures = found["validation"][0][1]
    assert (int(width), int(height), len(pictures)) == (97, 97, 3)
    assert tf.io.decode_png(pictures[0]).shape == (97, 97, 3)
    raw, averaged = (
        line[f"{kind}/loss"]
        for kind in ("validation_raw", "validation")
        for line in read_log(tmp_path)[-1:]
    )
    assert raw != averaged


def test_the_best_checkpoint_is_kept(records, tiny_config, tmp_path, monkeypatch, no_saved_model):
    config = replace(
        tiny_config,
        train=replace(
            tiny_config.train, steps=6, validate_every=2, checkpoint_every=2, keep_checkpoints=1
        ),
    )
    precisions = iter((0.2, 0.5, 0.4))
    monkeypatch.setattr(
        "personlab_keras.training.callback.validate",
        lambda *_: Validation({"keypoint_AP": next(precisions)}, []),
    )
    train(records, tmp_path, config, val_records=records)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.npz",
        "step-00000006.npz",
    ]
    _, _, best = load_workdir(tmp_path, best=True)
    _, _, latest = load_workdir(tmp_path)
    assert (best, latest) == (4, 6)
    export_source(tmp_path, tmp_path / "model", best=True)
    assert (
        json.loads((tmp_path / "model" / "personlab.json").read_text())["provenance"][
            "trained_steps"
        ]
        == 4
    )


def test_without_validation_there_is_no_best_checkpoint(workdir, model_directory, tmp_path):
    with pytest.raises(InputError, match="--val-records"):
        load_workdir(workdir, best=True)
    with pytest.raises(InputError, match="one set of weights"):
        export_source(model_directory, tmp_path / "model", best=True)


def test_one_process_at_a_time_trains_in_a_workdir(records, tiny_config, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step-00000002.npz.7.part").write_bytes(b"of a killed process")
    with sole_writer(tmp_path), pytest.raises(InputError, match="another process is writing there"):
        train(records, tmp_path, tiny_config)
    train(records, tmp_path, tiny_config)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004.npz"]


def test_a_full_disk_leaves_the_checkpoint_before(records, tiny_config, tmp_path, monkeypatch):
    config = replace(
        tiny_config, train=replace(tiny_config.train, checkpoint_every=2, keep_checkpoints=1)
    )
    fsync, written = os.fsync, []

    def full(descriptor):
        written.append(descriptor)
        if latest_checkpoint(tmp_path) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr("personlab_keras.io.files.os.fsync", full)
    with pytest.raises(
        InputError, match=r"step-00000004\.npz: cannot be written: No space left on device"
    ):
        train(records, tmp_path, config)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.npz"]


def test_a_damaged_checkpoint_is_named(records, tiny_config, tmp_path):
    train(records, tmp_path, tiny_config)
    checkpoint = latest_checkpoint(tmp_path)
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(InputError, match="step-00000004.npz: damaged checkpoint"):
        train(records, tmp_path, tiny_config)


# Export


def test_the_saved_model_serves_where_only_tensorflow_is(model_directory, tmp_path):
    """The same maps as the Keras network, for two batch sizes and image sizes, in a process that
    cannot import Keras.
    """
    rng = np.random.default_rng(0)
    images = [
        rng.uniform(0, 255, shape).astype(np.float32) for shape in ((1, 97, 97, 3), (2, 57, 81, 3))
    ]
    np.savez(tmp_path / "images.npz", *images)
    script = """
import sys
sys.modules["keras"] = None
import numpy as np
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
images = np.load(sys.argv[2])
outputs = {f"{i}/{name}": value.numpy() for i in range(2) for name, value in serve(image=tf.constant(images[f"arr_{i}"])).items()}
np.savez(sys.argv[3], **outputs)
"""
    arguments = [str(model_directory), str(tmp_path / "images.npz"), str(tmp_path / "out.npz")]
    subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    served = np.load(tmp_path / "out.npz")
    model = read_model_directory(model_directory).model
    for i, image in enumerate(images):
        ours = model.predict_on_batch(image)
        assert {name for name in served.files if name.startswith(f"{i}/")} == {
            f"{i}/{name}" for name in ours
        }
        for name, value in ours.items():
            np.testing.assert_allclose(served[f"{i}/{name}"], value, atol=1e-4, err_msg=name)
    assert served["0/heatmaps"].min() >= 0.0
    assert served["0/heatmaps"].max() <= 1.0


def test_a_model_directory_says_what_it_is(model_directory):
    described = json.loads((model_directory / "personlab.json").read_text())
    assert described["format_version"] == 1
    assert (described["stride"], described["radius"]) == (8, 8.0)
    assert described["skeleton"]["keypoints"][0] == "nose"
    assert described["preprocessing"]["scaling"] == "tf"
    assert described["provenance"]["trained_steps"] == 4
    directory = read_model_directory(model_directory)
    assert directory.config.predict.longer_side == 97


def test_exporting_a_model_again_at_another_stride_keeps_its_weights(
    tiny_config, tmp_path, no_saved_model
):
    config = replace(
        tiny_config, model=replace(tiny_config.model, backbone="mobilenet", output_stride=16)
    )
    export_model(build_model(config.model), config, COCO_PERSON, tmp_path / "coarse", {})
    export_source(tmp_path / "coarse", tmp_path / "fine", ["model.output_stride=8"])
    coarse, fine = (read_model_directory(tmp_path / name) for name in ("coarse", "fine"))
    assert (coarse.stride, fine.stride) == (16, 8)
    for a, b in zip(weights(coarse.network), weights(fine.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_whose_weights_depend_on_the_stride_says_so(model_directory, tmp_path):
    with pytest.raises(InputError, match="the weights are those of another network"):
        export_source(
            model_directory,
            tmp_path / "again",
            ["model.output_stride=16", "model.target_stride=16"],
        )
    assert not list(tmp_path.iterdir())


def test_exports_replace_exports_and_nothing_else(workdir, tmp_path, no_saved_model):
    export_source(workdir, tmp_path / "model")
    export_source(workdir, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="exists and is not a model directory"):
        export_source(workdir, tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "x"
    with pytest.raises(InputError, match="neither a workdir"):
        export_source(tmp_path / "precious", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("personlab.json", None, "no personlab.json there"),
        ("personlab.json", b"{", "damaged"),
        ("personlab.json", b'{"format_version": 2}', "must be 1. Received: 2"),
        ("personlab.json", b'{"format_version": 1}', "damaged: KeyError: 'architecture'"),
        ("model.weights.h5", None, "missing"),
        ("model.weights.h5", b"nonsense", "damaged, or belongs to another network"),
    ],
)
def test_incomplete_model_directories_get_one_line(model_directory, tmp_path, name, content, words):
    for file in ("personlab.json", "model.weights.h5"):
        (tmp_path / file).write_bytes((model_directory / file).read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_records_that_vanish_are_named(records, tiny_config, tmp_path):
    with pytest.raises(InputError, match=f"no {META_FILE} there"):
        train(tmp_path, tmp_path / "run", tiny_config)


def test_the_initial_weights_are_validated_and_a_run_that_spoils_them_says_so(
    records, model_directory, tiny_config, tmp_path, monkeypatch
):
    init = read_model_directory(model_directory).network
    scores = iter([0.5, 0.2])
    monkeypatch.setattr(
        "personlab_keras.training.callback.validate",
        lambda *_: Validation({"keypoint_AP": next(scores)}, []),
    )
    settings = replace(tiny_config.train, steps=2, learning_rate=0.1, ema=0.9, validate_every=2)
    config = replace(tiny_config, train=settings)
    train(records, tmp_path, config, val_records=records, init=init)
    log = read_log(tmp_path)
    assert [(line["step"], line[SCORE]) for line in log if SCORE in line] == [(0, 0.5), (2, 0.2)]
    said = verdict(log)
    assert said.startswith("keypoint AP .500 before training, .200 after it: no validated step is")
    best, _, step = load_workdir(tmp_path, best=True)
    assert step == 0
    for a, b in zip(weights(init), weights(best), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("longer_side", "fitting"), [(97, None), (98, None), (801, 801), (1200, 1201), (513, 513)]
)
def test_validation_at_another_size_than_prediction_is_remarked(
    records, tiny_config, longer_side, fitting
):
    config = replace(tiny_config, predict=replace(tiny_config.predict, longer_side=longer_side))
    remark = other_size(read_meta(records), config)
    if fitting is None:
        assert remark is None
    else:
        assert remark.startswith(
            f"these views of 97 px are validated, but images are predicted at {longer_side} px"
        )
        assert f"--set data.view_size={fitting} " in remark


@pytest.mark.parametrize(("scores", "said"), [
    ({0: 0.25, 4: 0.27}, "keypoint AP .250 before training, .270 after it"),
    ({0: 0.25, 2: 0.3, 4: 0.27}, "keypoint AP .250 before training, .270 after it; best at step 2, .300"),
    ({0: 0.25, 4: 0.25}, "keypoint AP .250 before training, .250 after it: no validated step is better"),
    ({2: 0.3, 4: 0.27}, "keypoint AP .270 after it; best at step 2, .300"),
    ({4: 0.27}, "keypoint AP .270 after it"),
])  # fmt: skip
def test_the_verdict_of_a_run(scores, said):
    lines = [{"step": step, "loss": 1.0} for step in (2, 4)]
    lines += [{"step": step, SCORE: score} for step, score in scores.items()]
    assert verdict(lines).startswith(said)
    assert verdict([line for line in lines if "loss" in line]) is None
    assert verdict([{"step": 0, SCORE: 0.3}]) is None
