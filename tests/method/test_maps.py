import numpy as np
import pytest

from personlab_keras.config import ModelConfig
from personlab_keras.method.maps import (
    ALL_OUTPUTS,
    MASK_OUTPUTS,
    OUTPUTS,
    PARTS,
    REQUIRED_OUTPUTS,
    Maps,
    pack,
    unpack,
)
from personlab_keras.method.skeleton import COCO_PERSON


def random_outputs(height=3, width=4):
    rng = np.random.default_rng(0)
    return {
        name: rng.random((height, width, channels(COCO_PERSON)), np.float32)
        for name, channels in OUTPUTS.items()
    }


def test_the_paper_has_150_channels():
    # 17 heatmaps, 34 short, 64 mid, 34 long, 1 segmentation
    assert sum(channels(COCO_PERSON) for channels in OUTPUTS.values()) == 150


def test_the_network_has_the_five_outputs_unless_told_otherwise():
    assert ModelConfig().outputs == tuple(OUTPUTS)
    assert set(REQUIRED_OUTPUTS) | set(MASK_OUTPUTS) == set(OUTPUTS)


def test_part_heatmaps_come_along():
    assert len(set(PARTS)) == ALL_OUTPUTS["part_heatmaps"](COCO_PERSON) == 24
    outputs = {
        **random_outputs(),
        "part_heatmaps": np.random.default_rng(1).random((3, 4, 24), np.float32),
    }
    maps = unpack(outputs, stride=8)
    np.testing.assert_array_equal(pack(maps)["part_heatmaps"], outputs["part_heatmaps"])
    with pytest.raises(ValueError, match=r"output `part_heatmaps` must be \(h, w, 24\)"):
        unpack({**outputs, "part_heatmaps": outputs["heatmaps"]}, stride=8)


def test_pack_inverts_unpack():
    outputs = random_outputs()
    packed = pack(unpack(outputs, stride=8))
    assert packed.keys() == outputs.keys()
    for name, array in outputs.items():
        np.testing.assert_array_equal(packed[name], array)


def test_flat_channels_interleave_dx_and_dy():
    outputs = random_outputs()
    maps = unpack(outputs, stride=8)
    np.testing.assert_array_equal(
        maps.short_offsets[1, 2, 5], outputs["short_offsets"][1, 2, 10:12]
    )
    assert maps.image_shape == (17, 25)


def test_a_network_without_masks():
    outputs = {
        name: array
        for name, array in random_outputs().items()
        if name not in ("long_offsets", "segmentation")
    }
    maps = unpack(outputs, stride=16)
    assert maps.long_offsets is None
    assert maps.segmentation is None
    assert pack(maps).keys() == outputs.keys()


def test_wrong_shapes_are_refused():
    outputs = random_outputs()
    with pytest.raises(ValueError, match="Missing.*mid_offsets"):
        unpack({name: array for name, array in outputs.items() if name != "mid_offsets"}, stride=8)
    with pytest.raises(ValueError, match=r"`heatmaps` must be \(h, w, 17\)"):
        unpack({**outputs, "heatmaps": outputs["heatmaps"][..., :3]}, stride=8)
    maps = unpack(outputs, stride=8)
    with pytest.raises(ValueError, match="`segmentation` must be"):
        Maps(
            maps.heatmaps,
            maps.short_offsets,
            maps.mid_offsets,
            maps.long_offsets,
            maps.segmentation.T,
            8,
        )
