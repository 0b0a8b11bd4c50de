"""Small files that announce large contents."""

import zipfile

import h5py
import numpy as np
import pytest

from personlab_keras.errors import InputError
from personlab_keras.inference.runtimes import read_network_file
from personlab_keras.io.files import SMALL_YAML, check_regular, parse_yaml, read_small
from personlab_keras.io.image_headers import image_size, is_whole
from personlab_keras.io.images import decode_image
from personlab_keras.io.limits import check_hdf5, check_onnx, check_zip


def test_an_array_that_is_announced_but_not_stored(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layers").create_dataset(
            "kernel", shape=(1 << 20, 1 << 20), dtype="f4", chunks=(1024, 1024)
        )
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"at most 1000 bytes. Received: 4398046511104 announced"):
        check_hdf5(path, 1000)


def test_arrays_of_other_files(tmp_path):
    np.zeros(4, "f4").tofile(tmp_path / "other")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("a", (4,), "f4", external=[(str(tmp_path / "other"), 0, 16)])
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["a"] = h5py.ExternalLink("plain.h5", "/a")
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["a"] = np.zeros(4, "f4")
    for name in ("external.h5", "linked.h5"):
        with pytest.raises(InputError, match="must hold"):
            check_hdf5(tmp_path / name, 1000)
    check_hdf5(tmp_path / "plain.h5", 16)
    with pytest.raises(InputError, match="at most 15 bytes"):
        check_hdf5(tmp_path / "plain.h5", 15)


def test_a_zip_that_inflates(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 20))
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    check_zip(tmp_path / "a.npz", 1 << 20)
    with pytest.raises(InputError, match="at most 1000 bytes"):
        check_zip(tmp_path / "a.npz", 1000)


def onnx_file(path, *nodes, **constants):
    """An ONNX model of these nodes, with an input `x` and an output `y`."""
    onnx = pytest.importorskip("onnx")
    arrays = [onnx.numpy_helper.from_array(np.array(v), name) for name, v in constants.items()]
    floats, unknown = onnx.TensorProto.FLOAT, ["n"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(*node, **options) for *node, options in nodes],
        "g",
        [onnx.helper.make_tensor_value_info("x", floats, unknown)],
        [onnx.helper.make_tensor_value_info("y", floats, None)],
        arrays,
    )
    onnx.save(onnx.helper.make_model(graph), path)
    return path


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([("ConstantOfShape", ["n"], ["c"], {})], {"n": np.int64([1 << 30])}),
        ([("Expand", ["a", "n"], ["c"], {})], {"a": np.float32(1), "n": np.int64([1 << 15] * 2)}),
        ([("RandomNormal", [], ["c"], {"shape": [1 << 15, 1 << 15]})], {}),
        # Each is small, and all together are not.
        (
            [("Tile", ["a", "n"], [name], {}) for name in ("b", "c")],
            {"a": np.zeros(4, "f4"), "n": np.int64([1 << 27])},
        ),
    ],
)
def test_constants_that_a_graph_makes(nodes, constants, tmp_path):
    path = onnx_file(tmp_path / "a.onnx", *nodes, ("Add", ["x", "c"], ["y"], {}), **constants)
    assert path.stat().st_size < 1000
    check_onnx(path, 1 << 32)
    with pytest.raises(InputError, match=r"at most 2147483648 bytes. Received: 4294967296"):
        check_onnx(path, 1 << 31)


def test_what_depends_on_the_input_is_no_constant(tmp_path):
    nodes = [
        ("Shape", ["x"], ["s"], {}),
        ("Mul", ["s", "n"], ["m"], {}),
        ("ConstantOfShape", ["m"], ["c"], {}),
        ("ReduceMax", ["c"], ["y"], {}),
    ]
    check_onnx(onnx_file(tmp_path / "a.onnx", *nodes, n=np.int64([1 << 40])), 100)
    (tmp_path / "b.onnx").write_bytes(b"damaged")
    check_onnx(tmp_path / "b.onnx", 100)


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan", "sparse", "function", "unknown"])
def test_what_cannot_be_counted_is_refused(kind, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    branch = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["n"], ["c"])],
        "branch",
        [],
        [helper.make_tensor_value_info("c", 1, None)],
    )
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [5]), [1 << 30]
    )
    nodes = {
        "If": [("If", ["yes"], ["c"], {"then_branch": branch, "else_branch": branch})],
        "Loop": [("Loop", ["n", "yes"], ["c"], {"body": branch})],
        "Scan": [("Scan", ["x"], ["c"], {"body": branch, "num_scan_inputs": 1})],
        "sparse": [("Constant", [], ["c"], {"sparse_value": sparse})],
        "function": [("Mine", ["x"], ["c"], {"domain": "own"})],
        # The sum of two constants is computed before its shape is looked at.
        "unknown": [("Add", ["n", "n"], ["m"], {}), ("ConstantOfShape", ["m"], ["c"], {})],
    }[kind]
    path = onnx_file(
        tmp_path / "a.onnx",
        *nodes,
        ("Add", ["x", "c"], ["y"], {}),
        n=np.int64([1 << 30]),
        yes=np.array(True),
    )
    if kind == "function":
        model = onnx.load_model(path)
        make = helper.make_node("ConstantOfShape", ["x"], ["c"])
        imports = [helper.make_opsetid("", 20)]
        model.functions.append(helper.make_function("own", "Mine", ["x"], ["c"], [make], imports))
        onnx.save(model, path)
    words = {
        "sparse": "a sparse constant",
        "function": r"a function \(Mine\)",
        "unknown": "unknown",
    }
    with pytest.raises(InputError, match=words.get(kind, rf"a branch or a loop \({kind}\)")):
        check_onnx(path, 1 << 40)


def openvino_file(path, make):
    """A zip archive as `personlab export --format openvino` writes it, of a small graph."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    image = ops.parameter([-1, -1, -1, 3], np.float32, name="image")
    model = openvino.Model([ops.add(image, make(ops))], [image], "g")
    openvino.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for suffix in (".xml", ".bin"):
            archive.write(path.with_suffix(suffix), f"model{suffix}")
    return path


def many(ops):
    """4 GB of one number."""
    shape = ops.constant(np.int64([1, 1 << 15, 1 << 15, 1]))
    return ops.broadcast(ops.constant(np.float32(1)), shape)


def test_an_openvino_graph_that_makes_much(tmp_path):
    path = openvino_file(tmp_path / "a.openvino", many)
    assert path.stat().st_size < 5000
    with pytest.raises(
        InputError, match=r"at most 2147483648 bytes. Received: 4294967\d+ announced"
    ):
        read_network_file(path)
    path = openvino_file(tmp_path / "b.openvino", lambda ops: ops.constant(np.float32(1)))
    with pytest.raises(InputError, match="holds no personlab.json"):
        read_network_file(path)


def test_an_openvino_file_that_inflates(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr("personlab_keras.inference.runtimes._LARGEST_OPENVINO", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.openvino", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.bin", bytes(2 << 20))
    assert (tmp_path / "a.openvino").stat().st_size < 10_000
    with pytest.raises(InputError, match="must hold at most 1048576 bytes. Received: 2097152"):
        read_network_file(tmp_path / "a.openvino")


def test_yaml_that_stands_for_much(tmp_path):
    # Nine levels of nine: 9^9 values, in 500 bytes.
    lines = ["- &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"- &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(InputError, match="stand for more than 1000000 values"):
        parse_yaml("\n".join(lines), "a.yaml")
    assert parse_yaml("\n".join(lines[:3]), "a.yaml")[2][8][8] == [1] * 9
    (tmp_path / "long.yaml").write_bytes(b"#" * (SMALL_YAML + 1))
    with pytest.raises(InputError, match=f"at most {SMALL_YAML} bytes"):
        read_small(tmp_path / "long.yaml", SMALL_YAML)
    with pytest.raises(InputError, match="must be a file. Received: a folder"):
        check_regular(tmp_path)


def test_a_png_without_pixels_is_not_decoded():
    """Found by fuzzing: OpenCV took nine seconds and 3.3 GB for these 91 bytes."""
    data = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000004000000040802000000269309290000002263646264608601463e"
        "5e1e66186094929460860146355515661800001d1a0155d470a36f000000004945ce44000049454e44ae426082"
    )
    assert image_size(data) == (4, 4)
    assert not is_whole(data)
    with pytest.raises(InputError, match="must be a whole image"):
        decode_image(data, "a.png")
