"""Every setting of the project, each at one place with its default and its reason.

A configuration is a tree of frozen dataclasses. `load_config` starts from the defaults, lays a YAML
file over them and then single overrides `section.key=value`; it names the nearest known key when
one is unknown."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from personlab_keras.errors import InputError
from personlab_keras.io.files import read_yaml
from personlab_keras.io.images import BACKGROUND
from personlab_keras.method.coordinates import map_side


@dataclass(frozen=True)
class DataConfig:
    """Views baked by `personlab prepare` and how the pipeline reads them."""

    view_size: int = 401
    """Side in pixels of the square views; targets.stride * n + 1."""
    views_per_image: int = 1
    """View 0 is the whole image, undistorted; every further one is drawn at random by the settings
    below.
    """
    scale: tuple[float, float] = (0.5, 1.5)
    """Range of the random scale, relative to the whole image fitting the view (METHOD.md: U[0.5,
    1.5]).
    """
    rotation: float = 15.0
    """Largest random rotation in degrees."""
    flip: float = 0.5
    """Probability of mirroring, both of a baked random view and of a view read for training."""
    negatives: bool = True
    """Keep images that show nobody: they teach the heads what is no person."""
    image_quality: int = 95
    """JPEG quality of the stored views."""
    shard_records: int = 512
    """Records in one TFRecord file."""
    workers: int = 0
    """Processes that bake views; 0 for one per CPU core."""
    seed: int = 0
    """Seed of the random views."""
    pad_colour: tuple[int, int, int] = BACKGROUND
    """RGB laid where a view or a network input reaches beyond the image: grey is near zero after
    every preprocessing.
    """
    online: bool = False
    """Whether views are also scaled, turned and moved anew whenever they are read for training, by
    the settings above. Then one view per image is enough; it costs time (docs/results.md)."""
    shuffle_records: int = 2048
    """Records held for shuffling."""
    brightness: float = 0.2
    """Largest random change of brightness, as a share of the full range."""
    contrast: float = 0.3
    """Largest random change of contrast, as a share."""
    saturation: float = 0.3
    """Largest random change of saturation, as a share."""
    skip_corrupt: int = 0
    """Most damaged records that are passed over when records are read. If more than 0, all shards
    are checked before training starts.
    """
    skeleton: str = "coco_person"
    """The keypoints, for `personlab prepare`: a YAML file, or the name of a shipped one
    (docs/data-format.md). Records, runs and models carry it on."""
    follow_links: bool = False
    """Whether images may be symbolic links that lead out of their folder."""


@dataclass(frozen=True)
class TargetsConfig:
    """Geometry of the targets; baked into the records."""

    radius: float = 32.0
    """R, the radius in view pixels of the disc around a keypoint (paper: 32, whatever the size of
    the person).
    """
    stride: int = 8
    """View pixels per target cell. The network's maps are brought to this stride."""
    ignore_near_unannotated: bool = False
    """Whether cells within the radius of a person without keypoints are left out of the heatmap
    loss, as those inside the person's mask always are: its keypoints have discs that reach beyond
    the mask. Discs of annotated people count all the same.
    """


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = "resnet101"
    """A name of `personlab_keras.model.backbones.BACKBONES`."""
    alpha: float = 1.0
    """Width multiplier, for backbones that have one."""
    output_stride: int = 16
    """Input pixels per cell of the backbone's features: 8, 16 or 32 (paper: 16 in training, 8 in
    evaluation).
    """
    weights: str | None = "imagenet"
    """'imagenet', the path of a Keras weights file of the backbone, or null for random ones."""
    outputs: tuple[str, ...] = (
        "heatmaps",
        "short_offsets",
        "mid_offsets",
        "long_offsets",
        "segmentation",
    )
    """The heads, names of `maps.ALL_OUTPUTS`. Networks without the last two find people but no
    masks; "part_heatmaps" comes with imported networks and is kept untrained."""
    target_stride: int | None = None
    """Stride of the maps, upsampled bilinearly from output_stride where finer; null for
    output_stride. `personlab train` sets it to the stride of the records."""
    middle_layer: str | None = None
    """Name of a backbone layer that gets a second set of heads for training (intermediate
    supervision).
    """
    mid_refinements: int = 0
    """Steps of mid-range refinement inside the network; what the network refines, the decoder need
    not.
    """
    long_refinements: int = 0
    """Steps of long-range refinement inside the network: this many by the field itself, then as
    many by the short offsets.
    """


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation."""

    steps: int = 1_000_000
    """Optimizer steps in all (paper: one million)."""
    batch_size: int = 8
    """Views in a step, over all devices (paper: 8)."""
    optimizer: str = "sgd"
    """'sgd' with momentum (paper) or 'adam'."""
    learning_rate: float = 1e-3
    """Highest learning rate; sources of the paper's setting disagree between 1e-3 and 1e-4."""
    momentum: float = 0.9
    """Momentum of sgd."""
    schedule: str = "constant"
    """'constant', 'cosine' to zero, or 'polynomial' to zero with power 0.9."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    ema: float = 0.0
    """Momentum of the Polyak average of the weights, 0 for none; where there is one, it is what is
    validated and exported.
    """
    clip_norm: float | None = None
    """Largest global norm of the gradient."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW, SGDW)."""
    freeze_batch_norm: bool = True
    """Keep the backbone's batch-norm statistics and scales as loaded (paper)."""
    mixed_precision: str | None = None
    """Compute type of the backbone, 'bfloat16' or 'float16'; null for float32. Heads and losses are
    float32 always.
    """
    strategy: str = "auto"
    """'single'; 'mirrored': all devices of this machine; 'multiworker': those of several processes;
    'tpu'; or 'auto': several processes if the environment names them, else a TPU if it names one,
    else all GPUs, else the CPU."""
    jit_compile: bool = False
    """Compile the step with XLA, as on the JAX backend always. Pays on GPU and TPU; TensorFlow's
    own kernels are faster on CPU.
    """
    seed: int = 0
    """Seed of initial weights, order of records and augmentation."""
    checkpoint_every: int = 5_000
    """Steps between checkpoints."""
    keep_checkpoints: int = 3
    """Latest checkpoints to keep."""
    validate_every: int = 5_000
    """Steps between validations, where validation records are given."""
    validate_raw: bool = False
    """Validate the weights of the step too, beside their average."""
    shown_views: int = 8
    """Views of the validation records that TensorBoard shows with the people found in them."""
    log_every: int = 100
    """Steps between log lines."""
    loss_limit: float | None = 20.0
    """The run ends where the mean loss between two log lines is more than this many times the least
    before; null for never.
    """
    heatmap_weight: float = 4.0
    """Weight of the heatmap loss (paper: heatmap 4, segmentation 2, short 1, mid 1/4, long 1/8)."""
    segmentation_weight: float = 2.0
    """Weight of the segmentation loss."""
    short_weight: float = 1.0
    """Weight of the short-range offset loss."""
    mid_weight: float = 0.25
    """Weight of the mid-range offset loss."""
    long_weight: float = 0.125
    """Weight of the long-range offset loss."""
    middle_weight: float = 1.0
    """Weight of the losses at the middle layer's heads, relative to those of the last layer."""


@dataclass(frozen=True)
class DecodeConfig:
    """From maps to people (METHOD.md, Poses and Masks)."""

    hough: bool = True
    """Whether people start at the maxima of the votes (paper) or of the heatmaps themselves."""
    peak_threshold: float = 0.01
    """Least Hough score of a local maximum that may start a person (paper)."""
    nms_radius: float = 10.0
    """r in input pixels: a seed this close to the same keypoint of an earlier person starts no
    other; keypoints this close to a better person's add nothing to the score (paper)."""
    mid_refinements: int = 4
    """Steps of short-range refinement of every mid-range step. The paper has 2; after 4 the
    released networks find more.
    """
    long_refinements: int = 2
    """Steps of refinement of the embedding by long offsets, then as many by short offsets (released
    code).
    """
    bridge: bool = True
    """Whether keypoints that the tree cannot reach are found by the long-range offsets of the
    others (beyond the paper).
    """
    bridge_support: float = 0.3
    """Share of a person's found keypoints, by their probability, that must agree on one that is
    bridged.
    """
    vote_refinements: int = 1
    """Steps in which every keypoint moves to where the votes within `nms_radius` agree (beyond the
    paper).
    """
    keypoint_threshold: float = 0.01
    """Least heatmap probability at a keypoint's position for it to count as found."""
    expected_oks: bool = True
    """Whether a keypoint's score is its heatmap probability times how well the votes around it
    agree (paper), or the first alone.
    """
    soft_nms: bool = True
    """Whether keypoints that a better person shows add nothing to a person's score (paper)."""
    score_power: float = 3.0
    """q: a person's score is the mean of its keypoint scores to this power, and the root of that.
    The paper has the plain mean, 1, by which many doubtful keypoints outweigh a few sure ones."""
    score_threshold: float = 0.3
    """Least score of a person that is returned. What lies below is mostly a second reading of
    somebody better. `evaluate` and validation keep everybody, since average precision is taken over
    all thresholds."""
    max_people: int = 100
    """Most people returned, best first."""
    masks: bool = True
    """Whether to find instance masks."""
    segmentation_threshold: float = 0.5
    """Least person probability of a mask pixel (likely the paper's)."""
    embedding_threshold: float = 0.25
    """t: largest embedding distance, in sqrt(box area), of a pixel to the person that owns it
    (likely the paper's).
    """
    exclusive_masks: bool = False
    """Whether a pixel goes to the nearest person alone instead of to everybody within t. Doubtful
    second readings of a person then take pixels from the first one (paper: not exclusive)."""


@dataclass(frozen=True)
class PredictConfig:
    """How an image is fitted to the network."""

    longer_side: int = 801
    """Longer side in pixels to which an image is resized before it is padded to stride * n + 1."""
    upscale: bool = True
    """Whether smaller images are enlarged to it."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which every image is seen, relative to the one above. The votes of all are
    pooled.
    """
    flip: bool = False
    """Whether every image is also seen mirrored: as many votes again, at twice the cost of the
    network.
    """
    batch_size: int = 4
    """Inputs of one shape that go through the network together."""
    runtime: str = "auto"
    """What a model directory's network runs in: 'keras', 'onnx' or 'litert', of which the directory
    has to hold the file; 'auto' is the fastest on a CPU of which there is a file and the package,
    and Keras where there is a GPU or neither (docs/runtimes.md)."""
    threads: int = 0
    """Threads that the network computes in; 0 for one per CPU core that the process may use."""


@dataclass(frozen=True)
class DemoConfig:
    """The embedded data set of `personlab demo`."""

    train_scenes: int = 4000
    """Synthetic scenes to learn from."""
    val_scenes: int = 200
    """Held-out synthetic scenes to evaluate on."""
    scene_size: int = 257
    """Side of a scene in pixels."""


@dataclass(frozen=True)
class ServeConfig:
    """`personlab serve`.

    Raises:
        InputError: a value out of its range.
    """

    host: str = "127.0.0.1"
    """Address to listen on: this machine alone. There is no authentication, so anything else
    belongs behind a proxy that has.
    """
    port: int = 8000
    """Port to listen on; 0 for a free one."""
    address: str | None = None
    """Ray cluster to run the replicas on, as `ray.init` takes it ("auto" on one of its machines);
    null for the one that RAY_ADDRESS names, and where it names none, for this machine alone."""
    replicas: int = 1
    """Copies of the network, each in a process of its own."""
    threads: int = 0
    """CPU cores of each replica; 0 for those of this machine, shared among the replicas."""
    gpus: float = 0.0
    """GPUs of each replica; replicas with a fraction share one."""
    max_batch: int = 4
    """Most images that go through the network together (in place of predict.batch_size)."""
    batch_wait_ms: float = 0.0
    """Longest time that an idle replica waits for a batch to fill. While one is at work the next
    one fills by itself.
    """
    max_queued: int = 64
    """Most requests that are accepted and not yet answered; any further one is refused at once with
    status 503.
    """
    max_bytes: int = 20_000_000
    """Largest image file taken."""
    max_pixels: int = 50_000_000
    """Largest width x height of an image that is decoded."""
    body_timeout_s: float = 30.0
    """Longest time in which a client must have sent its image: a slow one holds a place in the
    queue.
    """

    def __post_init__(self) -> None:
        for name in ("replicas", "max_batch", "max_queued", "max_bytes", "max_pixels"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"serve.{name} must be at least 1. Received: {value}")
        for name in ("threads", "gpus", "batch_wait_ms"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise InputError(f"serve.{name} must be at least 0. Received: {value}")
        if not self.body_timeout_s > 0:
            raise InputError(
                f"serve.body_timeout_s must be positive. Received: {self.body_timeout_s}"
            )
        if not 0 <= self.port <= 65535:
            raise InputError(f"serve.port must be 0 to 65535. Received: {self.port}")


@dataclass(frozen=True)
class Config:
    """The whole configuration.

    Raises:
        InputError: a view side that is no stride * n + 1, or a target stride that the network
            cannot produce.
    """

    data: DataConfig = field(default_factory=DataConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)

    def __post_init__(self) -> None:
        map_side(self.data.view_size, self.targets.stride)


def remaining_decoding(config: Config) -> DecodeConfig:
    """The decoder's settings for the maps of this network.

    `decode.mid_refinements` and `decode.long_refinements` count all steps of refinement. What the
    network does itself (`model.mid_refinements`, `model.long_refinements`) is left out here.

    >>> config = load_config(None, ["model.mid_refinements=2", "decode.mid_refinements=4"])
    >>> remaining_decoding(config).mid_refinements
    2
    """
    decode, model = config.decode, config.model
    return dataclasses.replace(
        decode,
        mid_refinements=max(0, decode.mid_refinements - model.mid_refinements),
        long_refinements=max(0, decode.long_refinements - model.long_refinements),
    )


def load_config(
    path: str | Path | None = None, overrides: Iterable[str] = (), base: Config | None = None
) -> Config:
    """The defaults, then a YAML file, then overrides.

    Args:
        path: a YAML file of sections; or the name of a file in `personlab_keras/configs`, with or
            without `.yaml`.
        overrides: texts `section.key=value`, the value in YAML.
        base: what to start from instead of the defaults.

    Raises:
        InputError: the file is missing or no YAML mapping; a section or key is unknown; a value is
            of another type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = _read_yaml(path)
    return apply_overrides(
        _build(Config, values, base=base or Config(), where="", source=str(path)), overrides
    )


def apply_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """The configuration with texts `section.key=value` laid over it, the value in YAML.

    Raises:
        InputError: as `load_config`.
    """
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise InputError(f"--set takes section.key=value. Received: {override}")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            raise InputError(f"--set {name}: the value must be YAML. Received: {text}") from None
        config = _build(Config, {section: {key: value}}, base=config, where="", source="--set")
    return config


def config_from_dict(values: Mapping[str, Any], source: str) -> Config:
    """A configuration from plain values as `config_to_dict` gives them; `source` is named in
    errors.

    Raises:
        InputError: as `load_config`.
    """
    return _build(Config, values, base=Config(), where="", source=source)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration or one of its sections, for YAML and JSON (tuples become
    lists).
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(config))


def config_to_yaml(config: Config) -> str:
    """The configuration as a YAML file that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def _read_yaml(path: str | Path) -> dict[str, Any]:
    values = read_yaml(path, Path(__file__).parent / "configs", "configuration")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: must be a mapping of sections. Received: {type(values).__name__}"
        )
    return values


def _build(kind: Any, values: Any, base: Any, where: str, source: str) -> Any:
    """`base` with `values` laid over it, recursively, every key and type checked."""
    if not isinstance(values, Mapping):
        raise InputError(
            f"{source}: {where or 'the configuration'} must be a mapping. Received: {values!r}"
        )
    hints = typing.get_type_hints(kind)
    changes = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise InputError(f"{source}: unknown key {name}.{_suggestion(name)}")
        if dataclasses.is_dataclass(hints[key]):
            changes[key] = _build(
                hints[key], value, base=getattr(base, key), where=name, source=source
            )
        else:
            changes[key] = _convert(hints[key], value, name=name, source=source)
    return dataclasses.replace(base, **changes)


def _suggestion(name: str) -> str:
    sections = typing.get_type_hints(Config)
    known = [
        f"{section}.{key}"
        for section, kind in sections.items()
        for key in typing.get_type_hints(kind)
    ]
    # A key given without or with the wrong section is as common as a misspelt one.
    tails = {full.partition(".")[2]: full for full in known}
    near = difflib.get_close_matches(name, [*known, *sections], n=1) or [
        tails[tail] for tail in difflib.get_close_matches(name.rpartition(".")[2], tails, n=1)
    ]
    return f" Nearest: {near[0]}" if near else f" Sections: {', '.join(sections)}"


def _convert(kind: Any, value: Any, name: str, source: str) -> Any:
    """The value as `kind`, one of: bool, int, float, str, a tuple of them (of any length if so
    declared), or one of them or None.
    """
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    wanted = next(option for option in options if option is not type(None))
    if typing.get_origin(wanted) is tuple:
        items = typing.get_args(wanted)
        if items[-1] is Ellipsis and isinstance(value, (list, tuple)):
            items = items[:1] * len(value)
        if isinstance(value, (list, tuple)) and len(value) == len(items):
            return tuple(
                _convert(item, each, name, source) for item, each in zip(items, value, strict=True)
            )
    elif wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif wanted is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a text because it has no point.
        try:
            return float(value)
        except ValueError:
            pass
    elif type(value) is wanted:
        return value
    wanted_name = (
        str(kind) if typing.get_origin(wanted) is tuple or len(options) > 1 else wanted.__name__
    )
    raise InputError(f"{source}: {name} must be {wanted_name}. Received: {value!r}")
