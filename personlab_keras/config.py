"""All settings of the project, each with its default and its description.

A configuration is a tree of frozen dataclasses. `load_config` starts from the defaults, then
applies a YAML file and single overrides `section.key=value`. Every value is checked when its
section is constructed (`config_values`). `personlab config` prints the descriptions below as
comments, each with the values allowed."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from personlab_keras.config_values import (
    Choices,
    Count,
    Range,
    Section,
    Text,
    field_descriptions,
    plain_values,
    shown,
    updated,
)
from personlab_keras.errors import InputError
from personlab_keras.io.files import Place, parse_yaml, read_yaml
from personlab_keras.io.images import BACKGROUND
from personlab_keras.method.coordinates import nearest_side
from personlab_keras.method.maps import ALL_OUTPUTS, OUTPUTS, REQUIRED_OUTPUTS

BACKBONE_NAMES = (
    "small",
    *("mobilenet", "mobilenetv2", "mobilenetv3small", "mobilenetv3large"),
    *("resnet50", "resnet101", "resnet152", "resnet50v2", "resnet101v2", "resnet152v2"),
    *(f"efficientnetb{size}" for size in range(8)),
    *(f"efficientnetv2{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l")),
    *("xception", "mobilenetv1_released", "resnet50_released"),
)
"""The keys of `model.backbones.BACKBONES`, which says how each is built."""

LONGEST_SIDE = 16385
"""Longest side, in pixels, to which an image may be resized for the network. Its maps at stride 8
take 2.5 GB."""

_Fraction = Annotated[float, Range(0, 1)]
_Many = Annotated[int, Range(1, 1_000_000_000)]
_Weight = Annotated[float, Range(0, 1_000_000)]
_Seed = Annotated[int, Range(0, 2**32 - 1)]
_Refinements = Annotated[int, Range(0, 64)]
_Threads = Annotated[int, Range(0, 1024)]
_Line = Annotated[str, Text()]
_Byte = Annotated[int, Range(0, 255)]
_Scale = Annotated[float, Range(0.01, 8)]
_Pixels = Annotated[float, Range(0, 100_000)]


@dataclass(frozen=True, repr=False)
class DataConfig(Section):
    """Views written by `personlab prepare`, and how the input pipeline reads them."""

    view_size: Annotated[int, Range(9, 4097)] = 401
    """Side of the square views in pixels; must be targets.stride * n + 1."""
    views_per_image: Annotated[int, Range(1, 10_000)] = 1
    """Views per image. View 0 is the whole image, undistorted; all others are random crops drawn
    with the settings below."""
    scale: tuple[Annotated[float, Range(0.05, 20)], Annotated[float, Range(0.05, 20)]] = (0.5, 1.5)
    """Range of the random scale; at 1 the whole image fits the view (paper: 0.5 to 1.5)."""
    rotation: Annotated[float, Range(0, 180)] = 15.0
    """Largest random rotation in degrees."""
    flip: _Fraction = 0.5
    """Probability of mirroring a random view, when it is written and again when it is read for
    training."""
    negatives: bool = True
    """Whether to keep images without people. The network learns from them what is not a person."""
    image_quality: Annotated[int, Range(1, 100)] = 95
    """JPEG quality of the stored views."""
    shard_records: Annotated[int, Range(1, 1_000_000)] = 512
    """Records in one file."""
    record_format: Annotated[str, Choices(("tfrecord", "array_record"))] = "tfrecord"
    """Format of the files of records. ArrayRecord files have an index, so that each of many
    processes finds its records at once; they need the extra `grain`."""
    workers: _Threads = 0
    """Processes that write views; 0 for one per CPU core."""
    seed: _Seed = 0
    """Random seed of the views."""
    pad_colour: tuple[_Byte, _Byte, _Byte] = BACKGROUND
    """RGB colour of the area where a view or a network input extends beyond the image. The default,
    grey, is close to zero after the preprocessing of every backbone."""
    online: bool = False
    """Whether records hold photos, of which training takes another view at random, within the
    ranges above, every time they are read. Requires views_per_image 1. Reading is slower
    (docs/results.md). Decided when the records are written."""
    engine: Annotated[str, Choices(("tf.data", "grain"))] = "tf.data"
    """What reads and augments records for training. Both engines read both formats and give the
    same examples in the same order; Grain needs the extra `grain`."""
    reader_processes: Annotated[int, Range(1, 1024)] = 4
    """Processes that read and augment with Grain; tf.data does it in threads."""
    shuffle_records: Annotated[int, Range(1, 1_000_000)] = 2048
    """Records that are shuffled together: whole shards come in random order, and so do the records
    within windows of this size."""
    brightness: _Fraction = 0.2
    """Largest random change of brightness, as a fraction of the full range."""
    contrast: _Fraction = 0.3
    """Largest random change of contrast, as a fraction."""
    saturation: _Fraction = 0.3
    """Largest random change of saturation, as a fraction."""
    skip_corrupt: Annotated[int, Range(0, 1_000_000_000)] = 0
    """Number of corrupt records to skip before reading fails. In training, the next sound record
    takes the place of each."""
    skeleton: _Line = "coco_person"
    """Keypoints that `personlab prepare` uses: a YAML file, or the name of one that comes with the
    package (docs/data-format.md). Records, runs and models keep a copy."""
    follow_links: bool = False
    """Whether images may be symbolic links that lead out of their folder."""
    annotation_frame: Annotated[str, Choices(("auto", "stored", "turned"))] = "auto"
    """Frame of the annotations where an image has an EXIF orientation: `stored` for that of the
    stored pixels, as COCO's are; `turned` for that of the picture as viewers show it, as those of
    YOLO are; `auto` for what the format has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rising("data.scale", self.scale)
        if self.online and self.views_per_image != 1:
            raise InputError(
                "data.online=true requires data.views_per_image=1: other views are taken while "
                f"training. Received: {self.views_per_image}"
            )


@dataclass(frozen=True, repr=False)
class TargetsConfig(Section):
    """Geometry of the targets, fixed when the records are written."""

    radius: Annotated[float, Range(1, 512)] = 32.0
    """Radius R of the disc around a keypoint in view pixels, whatever the size of the person
    (paper: 32)."""
    stride: Annotated[int, Choices((1, 2, 4, 8, 16, 32))] = 8
    """View pixels per target cell. The network's maps are resized to this stride."""
    ignore_near_unannotated: bool = False
    """Whether to skip cells within the radius of a person without annotated keypoints in the
    heatmap loss, like those inside the mask of the person: the discs of its keypoints extend beyond
    the mask. Discs of annotated people still count."""
    largest_person: Annotated[float, Range(1, 100_000)] | None = None
    """Largest square root of a person's area, in view pixels, that is trained; null for any. Within
    the box of a larger person only other people count: a network that cannot see somebody whole
    spends its steps on it, and where images are seen at several sizes, a smaller one shows it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = self.stride / 2
        if self.radius < least:
            raise InputError(
                f"targets.radius must be at least {least:g} for a targets.stride of {self.stride}, "
                f"so that a disc is as wide as a cell. Received: {self.radius:g}. Nearest: {least:g}"
            )


@dataclass(frozen=True, repr=False)
class ModelConfig(Section):
    """The network."""

    backbone: Annotated[str, Choices(BACKBONE_NAMES)] = "resnet101"
    """Name of the backbone, a key of `personlab_keras.model.backbones.BACKBONES`."""
    alpha: Annotated[float, Range(0.05, 8)] = 1.0
    """Width multiplier, for backbones that come in several widths."""
    output_stride: Annotated[int, Choices((8, 16, 32))] = 16
    """Input pixels per cell of the backbone's features: 8, 16 or 32 (paper: 16 in training, 8 in
    evaluation)."""
    weights: _Line | None = "imagenet"
    """Initial weights of the backbone: 'imagenet', the path of a Keras weights file, or null for
    random weights."""
    outputs: tuple[Annotated[str, Choices(tuple(ALL_OUTPUTS))], ...] = tuple(OUTPUTS)
    """Heads of the network. Without long_offsets and segmentation it predicts poses but no masks.
    The head part_heatmaps comes with imported networks; it is kept but not trained."""
    target_stride: Annotated[int, Choices((1, 2, 4, 8, 16, 32))] | None = None
    """Stride of the maps, which are upsampled bilinearly if output_stride is coarser; null for
    output_stride. `personlab train` sets it to the stride of the records."""
    middle_layer: _Line | None = None
    """Name of a backbone layer that gets a second set of heads during training (intermediate
    supervision); null for none."""
    mid_refinements: _Refinements = 0
    """Refinement steps of the mid-range offsets inside the network. The decoder can then do as many
    fewer."""
    long_refinements: _Refinements = 0
    """Refinement steps of the long-range offsets inside the network: this many by the long-range
    offsets themselves, then as many by the short-range ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.outputs
        if not set(REQUIRED_OUTPUTS) <= set(names) or len(set(names)) != len(names):
            raise InputError(
                f"model.outputs must hold {', '.join(REQUIRED_OUTPUTS)}, may hold others of "
                f"{', '.join(ALL_OUTPUTS)}, each once. Received: {', '.join(names)}"
            )
        if self.long_refinements and "long_offsets" not in names:
            raise InputError(
                "model.long_refinements must be 0 where model.outputs has no long_offsets"
            )
        if self.target_stride is not None and self.target_stride > self.output_stride:
            raise InputError(
                f"model.target_stride must divide model.output_stride ({self.output_stride}). "
                f"Received: {self.target_stride}. Nearest: {self.output_stride}"
            )


@dataclass(frozen=True, repr=False)
class TrainConfig(Section):
    """Optimisation."""

    steps: _Many = 1_000_000
    """Total number of optimizer steps (paper: one million)."""
    batch_size: Annotated[int, Range(1, 65_536)] = 8
    """Views per step, over all devices together (paper: 8)."""
    optimizer: Annotated[str, Choices(("sgd", "adam"))] = "sgd"
    """'sgd' with momentum (paper) or 'adam'."""
    learning_rate: Annotated[float, Range(1e-12, 100)] = 1e-3
    """Peak learning rate. Accounts of the paper's value differ between 1e-3 and 1e-4."""
    momentum: Annotated[float, Range(0, 0.9999)] = 0.9
    """Momentum of sgd."""
    schedule: Annotated[str, Choices(("constant", "cosine", "polynomial"))] = "constant"
    """Learning rate schedule: 'constant', 'cosine' decay to zero, or 'polynomial' decay to zero
    with power 0.9."""
    warmup_steps: Annotated[int, Range(0, 1_000_000_000)] = 0
    """Steps over which the learning rate rises linearly from zero."""
    ema: Annotated[float, Range(0, 0.999999)] = 0.0
    """Momentum of the exponential moving average of the weights; 0 for none. If there is an
    average, it is what gets validated and exported."""
    clip_norm: Annotated[float, Range(1e-6, 1_000_000)] | None = None
    """Largest global norm of the gradient; null for no clipping."""
    weight_decay: Annotated[float, Range(0, 10)] = 0.0
    """Decoupled weight decay (AdamW, SGDW)."""
    freeze_batch_norm: bool = True
    """Whether to keep the batch-norm statistics and scales of the initial weights (paper). Refused
    for random weights."""
    mixed_precision: Annotated[str, Choices(("bfloat16", "float16"))] | None = None
    """Compute type of the backbone, 'bfloat16' or 'float16'; null for float32. Heads and losses
    always use float32."""
    strategy: Annotated[str, Choices(("auto", "single", "mirrored", "multiworker", "tpu"))] = "auto"
    """Devices to train on: 'single', 'mirrored' (all devices of this machine), 'multiworker'
    (several processes), 'tpu' (all chips of a slice; JAX only, docs/tpu.md), or 'auto': several
    processes if the environment defines them, else all GPUs, else the CPU."""
    jit_compile: bool = False
    """Whether to compile the training step with XLA, which pays on GPUs and TPUs. On CPUs
    TensorFlow's own kernels are faster. The JAX backend always compiles."""
    seed: _Seed = 0
    """Random seed of the initial weights, the order of the records and the augmentation."""
    checkpoint_every: _Many = 5_000
    """Steps between checkpoints."""
    checkpoints: Annotated[str, Choices(("npz", "orbax"))] = "npz"
    """Format of the checkpoints: 'npz', one file, for which the run waits while it is written, or
    'orbax', a folder that is written while the run goes on (JAX backend, one process, workdir on a
    disk, extra `orbax`). Either resumes the other."""
    keep_checkpoints: Annotated[int, Range(1, 100_000)] = 3
    """Number of latest checkpoints to keep."""
    validate_every: _Many = 5_000
    """Steps between validations, if there are validation records."""
    validate_raw: bool = False
    """Whether to validate the current weights too, besides their moving average."""
    shown_views: Annotated[int, Range(0, 1000)] = 8
    """Number of validation views that TensorBoard shows with the predicted people."""
    log_every: _Many = 100
    """Steps between log lines."""
    loss_limit: Annotated[float, Range(1, 1_000_000)] | None = 20.0
    """Stop the run if the mean loss of a log interval exceeds the lowest one so far by this factor;
    null to never stop."""
    kept_outputs: Annotated[
        tuple[Annotated[str, Choices(tuple(OUTPUTS))], ...], Count(0, len(OUTPUTS))
    ] = ()
    """Outputs that learn, in every cell, what the initial network (--init) gives, instead of the
    annotations: few images would spoil them. Those that the network lacks are passed over."""
    heatmap_weight: _Weight = 4.0
    """Weight of the heatmap loss (paper: heatmap 4, segmentation 2, short 1, mid 1/4, long 1/8)."""
    segmentation_weight: _Weight = 2.0
    """Weight of the segmentation loss."""
    short_weight: _Weight = 1.0
    """Weight of the short-range offset loss."""
    mid_weight: _Weight = 0.25
    """Weight of the mid-range offset loss."""
    long_weight: _Weight = 0.125
    """Weight of the long-range offset loss."""
    middle_weight: _Weight = 1.0
    """Weight of the losses of the middle layer's heads, relative to those of the last layer."""


FAINT_VOTE = 1e-3
"""Heatmap probability below which a cell casts no vote (both decoders): half of the cells of a
released network, whose votes change nothing.
"""
AGREEING_VOTES = 2.0
"""Largest distance in input pixels between the votes of two neighbouring cells that agree (both
decoders)."""
NEAR_VOTE = 4.0
"""Standard deviation in input pixels of the weight of a cell by how near its vote lands (both
decoders)."""
FAINT_SHARE = 1e-6
"""Sum of the weights of four cells below which their votes are all far (both decoders)."""
VOTE_FADE = 1.0
"""Input pixels before a radius over which the weight of votes falls from 1 to 0 (both decoders)."""
SAME_PERSON = 0.5
"""Object keypoint similarity above which two readings are of one body (both decoders): COCO's least
for a match."""
DIFFERENT_PLACE = 0.1
"""Agreement exp(-d^2 / (2 lambda^2 kappa^2)) below which two places are different (both decoders).
"""


@dataclass(frozen=True, repr=False)
class DecodeConfig(Section):
    """The decoder, from maps to people (docs/decoder.md)."""

    hough: bool = True
    """Whether people start from maxima of the Hough votes (paper) or of the heatmaps."""
    peak_threshold: _Fraction = 0.01
    """Lowest Hough score of a local maximum that may start a person (paper)."""
    nms_radius: Annotated[float, Range(0, 1000)] = 10.0
    """Non-maximum suppression radius in input pixels. A seed closer than this to the same keypoint
    of a better person is dropped; a keypoint this close to one of a better person does not count
    towards the score (paper)."""
    mid_refinements: _Refinements = 4
    """Short-range refinement steps after each mid-range offset. The paper uses 2; with 4 the
    released networks find more."""
    long_refinements: _Refinements = 2
    """Refinement steps of the embedding: this many by long-range offsets, then as many by
    short-range ones (as in Google's released code)."""
    bridge: bool = True
    """Whether to locate keypoints that the tree cannot reach by the long-range offsets of the other
    keypoints (not in the paper)."""
    bridge_support: _Fraction = 0.3
    """Fraction of a person's keypoints, weighted by probability, that must agree on a bridged
    keypoint."""
    vote_refinements: _Refinements = 1
    """Mean-shift steps that move each keypoint to the centre of the votes within `nms_radius` (not
    in the paper)."""
    keypoint_threshold: _Fraction = 0.01
    """Lowest heatmap probability at which a keypoint counts as found."""
    expected_oks: bool = True
    """Whether a keypoint's score is its heatmap probability times the agreement of the votes around
    it (paper), or the probability alone."""
    soft_nms: bool = True
    """Whether keypoints that a better person already covers are left out of a person's score
    (paper)."""
    copy_score: _Fraction = 0.5
    """Factor on the score of a person who is a copy of a better one by keypoints and embedding; 1
    leaves scores alone (not in the paper)."""
    merge: bool = False
    """Whether several readings of one body in one size are merged into one person (beyond the
    paper). Readings of several sizes always are."""
    scale_range: tuple[_Pixels, _Pixels] = (60.0, 350.0)
    """Least and largest square root of the area of a person's keypoint box, in input pixels, that
    the network reads well. Where an image is seen at several sizes, each size leaves people beyond
    this range to a size that suits them better."""
    score_power: Annotated[float, Range(0.01, 100)] = 3.0
    """A person's score is the power mean of the keypoint scores with this exponent. The paper uses
    the plain mean (1), with which many doubtful keypoints outweigh a few certain ones."""
    score_threshold: _Fraction = 0.3
    """Lowest score of a person to return. Detections below it are mostly duplicates of better ones.
    `personlab evaluate` and validation use 0, because average precision covers all thresholds."""
    max_people: Annotated[int, Range(0, 1000)] = 100
    """Largest number of people to return, best first."""
    masks: bool = True
    """Whether to compute instance masks."""
    segmentation_threshold: _Fraction = 0.5
    """Lowest person probability of a mask pixel (probably as in the paper)."""
    embedding_threshold: Annotated[float, Range(0, 100)] = 0.25
    """Largest embedding distance between a pixel and the person it belongs to, as a multiple of
    sqrt(box area) (probably as in the paper)."""
    exclusive_masks: bool = False
    """Whether a pixel belongs to the nearest person only, instead of to everybody within
    embedding_threshold. Duplicate detections then take pixels from the better one (paper: not
    exclusive)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rising("decode.scale_range", self.scale_range)


PROVIDERS = ("tensorrt", "cuda", "migraphx", "openvino", "coreml", "dml", "xnnpack", "cpu")
"""Values of `predict.providers`."""


@dataclass(frozen=True, repr=False)
class PredictConfig(Section):
    """How an image is fitted to the network, and what runs the network."""

    longer_side: Annotated[int, Range(9, LONGEST_SIDE)] = 801
    """Longer side in pixels to which an image is resized, before padding to stride * n + 1."""
    upscale: bool = True
    """Whether to enlarge smaller images to that size."""
    scales: Annotated[tuple[_Scale, ...], Count(1, 16)] = (1.0,)
    """Scales at which the network sees each image, relative to longer_side. The votes are pooled.
    """
    flip: bool = False
    """Whether the network sees each image mirrored as well. This doubles the votes and the cost."""
    batch_size: Annotated[int, Range(1, 1024)] = 4
    """Largest number of inputs of the same shape that go through the network together."""
    runtime: Annotated[str, Choices(("auto", "keras", "onnx", "litert", "openvino"))] = "auto"
    """Runtime of a model directory's network: 'keras', 'onnx', 'litert' or 'openvino', for which
    the directory must contain the file; or 'auto' for Keras if there is a GPU, else the fastest on
    a CPU whose file and package are present (docs/runtimes.md)."""
    threads: _Threads = 0
    """CPU threads of the network; 0 for one per core that the process may use."""
    providers: Annotated[tuple[Annotated[str, Choices(PROVIDERS)], ...], Count(1, 8)] = ("cpu",)
    """Execution providers of ONNX Runtime, in order of preference. The installed build of it must
    have them; parts of a network that one cannot run go to the next (docs/runtimes.md)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = round(self.longer_side * max(self.scales))
        if longest > LONGEST_SIDE:
            raise InputError(
                f"predict.longer_side times the largest of predict.scales must be at most "
                f"{LONGEST_SIDE} pixels. Received: {self.longer_side} x {max(self.scales):g}"
            )


@dataclass(frozen=True, repr=False)
class DemoConfig(Section):
    """The synthetic data set of `personlab demo`."""

    train_scenes: Annotated[int, Range(1, 10_000_000)] = 4000
    """Number of synthetic training scenes."""
    val_scenes: Annotated[int, Range(1, 10_000_000)] = 200
    """Number of held-out scenes to evaluate on."""
    scene_size: Annotated[int, Range(33, 2049)] = 257
    """Side of a scene in pixels."""


@dataclass(frozen=True, repr=False)
class ServeConfig(Section):
    """The HTTP server, `personlab serve`."""

    host: _Line = "127.0.0.1"
    """Address to listen on; the default is this machine only. Any other needs an API key
    (docs/server.md)."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on; 0 for a free one."""
    address: _Line | None = None
    """Ray cluster that runs the replicas, as for `ray.init` ('auto' on a machine of the cluster);
    null for the one in RAY_ADDRESS if that is set, else this machine only."""
    replicas: Annotated[int, Range(1, 1024)] = 1
    """Number of copies of the network, each in its own process."""
    threads: _Threads = 0
    """CPU cores per replica; 0 to divide those of this machine among the replicas."""
    gpus: Annotated[float, Range(0, 1024)] = 0.0
    """GPUs per replica; with a fraction, replicas share one."""
    max_batch: Annotated[int, Range(1, 1024)] = 4
    """Largest number of images that go through the network together (replaces predict.batch_size).
    """
    batch_wait_ms: Annotated[float, Range(0, 60_000)] = 0.0
    """Longest time in milliseconds that an idle replica waits for a batch to fill. A busy replica's
    next batch fills while it works."""
    max_queued: Annotated[int, Range(1, 100_000)] = 64
    """Largest number of accepted requests without an answer yet; further ones get status 503 at
    once."""
    max_bytes: Annotated[int, Range(1, 2**31)] = 20_000_000
    """Largest accepted image file in bytes."""
    max_pixels: Annotated[int, Range(1, 2**31)] = 50_000_000
    """Largest accepted image in pixels (width x height)."""
    head_timeout_s: Annotated[float, Range(0.1, 3600)] = 10.0
    """Seconds within which a client must have sent the head of a request."""
    body_timeout_s: Annotated[float, Range(0.1, 3600)] = 30.0
    """Seconds within which a client must have sent its image."""
    max_connections: Annotated[int, Range(1, 100_000)] = 256
    """Largest number of open connections. Times max_bytes, it bounds the memory of images that are
    arriving."""
    max_per_client: Annotated[int, Range(0, 100_000)] = 128
    """Largest number of open connections of one address; 0 for no limit of its own, as behind a
    proxy."""
    hosts: Annotated[tuple[_Line, ...], Count(0, 100)] = ()
    """Names in the Host header, without port, that are answered for. On a loopback address those of
    the machine itself always are, and no others; elsewhere, without any here, all are."""
    origins: Annotated[tuple[_Line, ...], Count(0, 100)] = ()
    """Origins of web pages that may use the server besides its own (CORS), such as
    https://example.org; * for all."""
    page: bool = True
    """Whether to serve the page to try the server."""
    metrics_port: Annotated[int, Range(0, 65535)] | None = None
    """Port of /metrics alone, which then is not on the main port and needs no key; 0 for a free
    one, null for the main port."""
    tls_certificate: _Line | None = None
    """File of the TLS certificate, with its chain (PEM); null for no TLS."""
    tls_key: _Line | None = None
    """File of the private key of the certificate (PEM)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InputError("serve.tls_certificate and serve.tls_key must both be given, or none")
        if self.gpus > 1 and self.gpus != round(self.gpus):
            raise InputError(
                "serve.gpus must be a fraction of one GPU or a whole number of them. "
                f"Received: {self.gpus:g}. Nearest: {round(self.gpus)}"
            )


@dataclass(frozen=True)
class Config:
    """The whole configuration: one frozen dataclass per section.

    >>> config = Config(train=TrainConfig(steps=100))
    >>> config.train.steps, config.train.batch_size
    (100, 8)

    Raises:
        InputError: the side of the views is not stride * n + 1.
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
        size, stride = self.data.view_size, self.targets.stride
        if (size - 1) % stride:
            raise InputError(
                f"data.view_size must be targets.stride * n + 1 (stride {stride}). "
                f"Received: {size}. Nearest: {nearest_side(size, stride)}"
            )


def _check_rising(name: str, ends: tuple[float, float]) -> None:
    first, last = ends
    if first > last:
        raise InputError(
            f"{name} must not fall: the first number is at most the second. "
            f"Received: {shown(ends)}. Nearest: {shown((last, first))}"
        )


def remaining_decoding(config: Config) -> DecodeConfig:
    """The decoder's settings for the maps of this network.

    `decode.mid_refinements` and `decode.long_refinements` count all steps of refinement. What the
    network does itself (`model.mid_refinements`, `model.long_refinements`) is left out here.

    >>> config = load_config(None, ["model.mid_refinements=2", "decode.mid_refinements=4"])
    >>> remaining_decoding(config).mid_refinements
    2
    """
    decode, model = config.decode, config.model
    return replace(
        decode,
        mid_refinements=max(0, decode.mid_refinements - model.mid_refinements),
        long_refinements=max(0, decode.long_refinements - model.long_refinements),
    )


def load_config(
    path: str | Place | None = None, overrides: Iterable[str] = (), base: Config | None = None
) -> Config:
    """Reads a configuration: the defaults, then a YAML file, then overrides.

    >>> load_config("demo", ["train.steps=10"]).train.steps
    10

    Args:
        path: a YAML file with sections, or the name of one in `personlab_keras/configs`, with or
            without `.yaml`; None for no file.
        overrides: strings `section.key=value`, with the value in YAML.
        base: configuration to start from instead of the defaults.

    Raises:
        InputError: the file does not exist or is not a YAML mapping, a section or key is unknown,
            or a value has the wrong type or is out of range.
    """
    values = {} if path is None else _read_yaml(path)
    return apply_overrides(updated(base or Config(), values, source=str(path)), overrides)


def apply_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """A copy of a configuration with overrides `section.key=value`, the values in YAML.

    >>> apply_overrides(Config(), ["data.scale=[0.8, 1.2]"]).data.scale
    (0.8, 1.2)

    Raises:
        InputError: as `load_config`.
    """
    values: dict[str, dict[str, Any]] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise InputError(f"--set requires section.key=value. Received: {shown(override)}")
        # All at once: a size and its stride may change together.
        values.setdefault(section, {})[key] = parse_yaml(text, f"--set {name}")
    return updated(config, values, source="--set")


def file_overrides(path: str | Path) -> list[str]:
    """The settings that a YAML file names, as overrides `section.key=value`.

    >>> file_overrides("demo")[:2]
    ['data.view_size=257', 'data.views_per_image=1']

    Raises:
        InputError: as `load_config`.
    """
    load_config(path)
    return [
        f"{section}.{key}={json.dumps(value)}"  # which YAML can read
        for section, settings in _read_yaml(path).items()
        for key, value in settings.items()
    ]


def config_from_dict(values: Mapping[str, Any], source: str) -> Config:
    """A configuration from plain values, as `config_to_dict` returns them.

    Args:
        values: sections, by name; missing settings have their defaults.
        source: named in errors.

    Raises:
        InputError: as `load_config`.
    """
    return updated(Config(), values, source=source)


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration, or one of its sections, as plain values for YAML and JSON; tuples become
    lists.
    """
    return plain_values(config)


def config_to_yaml(config: Config) -> str:
    """The configuration as YAML text, which `load_config` reads back to an equal one."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def config_to_described_yaml(config: Config) -> str:
    """As `config_to_yaml`, with the description of every setting in a comment above it.

    >>> print(config_to_described_yaml(Config())[:75])
    # Views written by `personlab prepare`, and how the input pipeline reads th
    """
    parts = []
    for section in fields(config):
        settings = getattr(config, section.name)
        about = (type(settings).__doc__ or "").partition("\n")[0]
        parts.append(f"{_comment(about, '')}{section.name}:\n")
        descriptions = field_descriptions(type(settings))
        for name, value in plain_values(settings).items():
            parts.append(_comment(descriptions[name], "  "))
            parts.append(textwrap.indent(yaml.safe_dump({name: value}, sort_keys=False), "  "))
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def _comment(text: str, indent: str) -> str:
    lead = f"{indent}# "
    return (
        textwrap.fill(
            text, 100, initial_indent=lead, subsequent_indent=lead, break_on_hyphens=False
        )
        + "\n"
    )


def _read_yaml(path: str | Place) -> dict[str, Any]:
    values = read_yaml(path, Path(__file__).parent / "configs", "configuration")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: must be a mapping of sections. Received: {type(values).__name__}"
        )
    return values
