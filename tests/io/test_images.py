"""Reading image files: every format gives RGB; incomplete and other files are refused by name."""

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_bombs import huge_png
from PIL import Image

from personlab_keras.errors import InputError
from personlab_keras.io.image_headers import image_size, is_whole
from personlab_keras.io.images import decode_image, list_images, read_image, unread_media

# Four flat quarters: recognisable after every codec, and moved by every rotation.
CORNERS = {
    "top left": (220, 30, 30),
    "top right": (30, 200, 40),
    "bottom left": (40, 60, 210),
    "bottom right": (230, 220, 60),
}


def quarters(height: int = 64, width: int = 96) -> np.ndarray:
    image = np.empty((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    image[top, left], image[top, right] = CORNERS["top left"], CORNERS["top right"]
    image[bottom, left], image[bottom, right] = CORNERS["bottom left"], CORNERS["bottom right"]
    return image


def encoded(
    image: np.ndarray | Image.Image, kind: str, mode: str | None = None, **options: object
) -> bytes:
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        ("JPEG", None, 12),
        ("JPEG", "CMYK", 12),
        ("PNG", None, 0),
        ("PNG", "RGBA", 0),
        ("WEBP", None, 16),
        ("BMP", None, 0),
        ("TIFF", None, 0),
        ("TIFF", "CMYK", 0),
    ],
)
def test_every_format_gives_rgb_of_the_right_colours(kind, mode, tolerance):
    image = quarters()
    decoded = decode_image(encoded(image, kind, mode), "x")
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    for row, column in ((10, 10), (10, 80), (50, 10), (50, 80)):
        np.testing.assert_allclose(
            decoded[row, column].astype(int), image[row, column], atol=tolerance
        )


def test_palette_and_progressive():
    image = quarters()
    palette = Image.fromarray(image).quantize(4)
    np.testing.assert_array_equal(
        decode_image(encoded(palette, "PNG"), "x"), np.asarray(palette.convert("RGB"))
    )
    progressive = decode_image(encoded(image, "JPEG", progressive=True), "x")
    np.testing.assert_allclose(progressive[10, 10].astype(int), image[10, 10], atol=12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_grey_becomes_three_equal_channels(kind):
    grey = np.full((20, 30), 90, np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(grey, kind), "x"), np.full((20, 30, 3), 90))


def test_sixteen_bits_keep_the_full_range():
    image = quarters().astype(np.uint16) * 257
    for ending in (".png", ".tiff"):
        _, data = cv2.imencode(ending, image[..., ::-1])
        np.testing.assert_allclose(
            decode_image(data.tobytes(), "x").astype(int), quarters(), atol=1
        )


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_transparency_shows_the_background(kind, options):
    image = np.dstack([np.full((8, 12, 3), 200, np.uint8), np.full((8, 12), 255, np.uint8)])
    image[:, 4:8, 3] = 0
    image[:, 8:, 3] = 51
    decoded = decode_image(encoded(image, kind, **options), "x", background=(100, 120, 140))
    # 51 / 255 = 0.2, so 0.2 * 200 + 0.8 * background.
    np.testing.assert_array_equal(
        decoded[0, [0, 5, 10]], [[200] * 3, [100, 120, 140], [120, 136, 152]]
    )


def test_grey_with_transparency_shows_the_background():
    image = np.dstack([np.full((4, 6), 10, np.uint8), np.zeros((4, 6), np.uint8)])
    decoded = decode_image(encoded(Image.fromarray(image, "LA"), "PNG"), "x")
    np.testing.assert_array_equal(decoded, np.full((4, 6, 3), 127))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("tag", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: a.swapaxes(0, 1)[:, ::-1]),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: a.swapaxes(0, 1)[::-1]),
    ],
)
def test_orientation_is_applied_or_left(kind, tag, turned):
    data = encoded(quarters(), kind, exif=orientation(tag))
    stored = decode_image(data, "x", apply_orientation=False)
    assert stored.shape == (64, 96, 3)
    np.testing.assert_allclose(stored[10, 10].astype(int), CORNERS["top left"], atol=16)
    np.testing.assert_array_equal(decode_image(data, "x"), turned(stored))


@pytest.mark.parametrize("tag", range(1, 9))
def test_transparency_turns_with_the_image(tag):
    image = np.dstack([quarters(), np.full((64, 96), 255, np.uint8)])
    image[5:20, 10:40, 3] = 0
    data = encoded(image, "PNG", exif=orientation(tag))
    whole = decode_image(encoded(image[..., :3], "PNG", exif=orientation(tag)), "x")
    hole = (
        decode_image(
            encoded(np.repeat(image[..., 3:], 3, axis=2), "PNG", exif=orientation(tag)), "x"
        )
        == 0
    )
    np.testing.assert_array_equal(decode_image(data, "x"), np.where(hole, 127, whole))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_truncated_file_is_refused_wherever_it_ends(kind, options, capfd):
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    data = encoded(noise, kind, **options)
    decode_image(data, "whole")
    for length in [1, 3, *range(20, len(data) - 2, 97), len(data) - 2]:
        with pytest.raises(InputError, match=r"^cut\.img: must be"):
            decode_image(data[:length], "cut.img")
    # The user sees one line only.
    assert capfd.readouterr().err == ""


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    thumbnail = encoded(noise[:16, :16], "JPEG")
    data = encoded(noise, "JPEG")
    # An APP1 segment with the thumbnail, including its end marker.
    with_thumbnail = (
        data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + data[2:]
    )
    assert decode_image(with_thumbnail, "x").shape == (64, 64, 3)
    with pytest.raises(InputError, match="truncated"):
        decode_image(with_thumbnail[: len(with_thumbnail) - 600], "x")


def test_bytes_after_the_end_do_no_harm():
    for kind in ("JPEG", "PNG"):
        assert decode_image(encoded(quarters(), kind) + bytes(100), "x").shape == (64, 96, 3)


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"", "an empty file"),
        (b"no image at all, but a text", "27 bytes that do not decode"),
        (bytes(50), "50 bytes that do not decode"),
    ],
)
def test_other_content_is_refused_in_one_line(tmp_path, content, received):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: must be")
    assert str(caught.value).endswith(f"Received: {received}")
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            read_image(path)


FORMS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"big_tiff": True}),
    ("GIF", {}),
]


@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_the_size_is_read_from_the_header(kind, options):
    for height, width in ((64, 96), (1, 1), (3, 700)):
        assert image_size(encoded(quarters(height, width), kind, **options)) == (width, height)


def test_the_size_of_rarer_forms_is_read_from_the_header():
    image = quarters()
    # With EXIF, WebP has another header; the size is that of the stored pixels.
    for kind in ("WEBP", "JPEG", "PNG"):
        assert image_size(encoded(image, kind, exif=orientation(6))) == (96, 64)
    thumbnail = encoded(image[:16, :16], "JPEG")
    data = encoded(image, "JPEG")
    with_thumbnail = (
        data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + data[2:]
    )
    assert image_size(with_thumbnail) == (96, 64)
    # libjpeg skips bytes between segments, so reading the size has to skip them, too.
    assert data[20:22] == b"\xff\xdb"
    padded = data[:20] + b"junk\xff\xff" + data[20:]
    assert image_size(padded) == (96, 64)
    assert cv2.imdecode(np.frombuffer(padded, np.uint8), cv2.IMREAD_COLOR).shape == (64, 96, 3)
    downwards = bytearray(encoded(image, "BMP"))
    downwards[22:26] = struct.pack("<i", -64)
    assert image_size(bytes(downwards)) == (96, 64)
    assert image_size(b"BM" + bytes(12) + struct.pack("<IHH", 12, 70, 50)) == (70, 50)
    frames = [Image.fromarray(np.full((20, 30, 3), grey, np.uint8)) for grey in (0, 120, 250)]
    assert image_size(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (
        30,
        20,
    )
    big_endian = b"MM\0*" + struct.pack(">IHHHIHHHHIHH", 8, 2, 256, 3, 1, 70, 0, 257, 3, 1, 50, 0)
    assert image_size(big_endian) == (70, 50)


@pytest.mark.parametrize(("kind", "options"), FORMS)
@given(data=st.data())
def test_reading_the_size_of_a_corrupt_header_never_raises(kind, options, data):
    whole = bytearray(encoded(quarters(16, 24), kind, **options))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    size = image_size(broken)
    assert size is None or min(size) > 0
    # If the file still decodes, it has the size that was read.
    try:
        image = decode_image(broken, "x", apply_orientation=False, max_pixels=1_000_000)
    except InputError:
        return
    assert image.shape[1::-1] == size


@given(st.binary(max_size=60))
def test_reading_the_size_of_random_bytes_never_raises(data):
    for start in (
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF....WEBP",
        b"BM",
        b"II*\0",
        b"MM\0+",
        b"GIF89a",
    ):
        size = image_size(start + data)
        assert size is None or min(size) > 0


def test_too_many_pixels_are_refused_before_they_take_memory(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="at most 6143 pixels. Received: 96 x 64"):
        decode_image(encoded(quarters(), "PNG"), "x", max_pixels=96 * 64 - 1)
    assert decode_image(encoded(quarters(), "PNG"), "x", max_pixels=96 * 64).shape == (64, 96, 3)
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png())
    monkeypatch.setattr(cv2, "imdecode", None)  # decoding would fail
    with pytest.raises(
        InputError,
        match=r"huge\.png: must be an image of at most 250000000 pixels. Received: 30000 x 30000",
    ):
        read_image(path)


def test_an_image_of_unknown_size_is_refused():
    _, data = cv2.imencode(".ppm", quarters())
    assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    with pytest.raises(InputError, match="must be a JPEG, PNG"):
        decode_image(data.tobytes(), "x")


@pytest.fixture
def tree(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.webp", "odd[1].jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_a_folder_gives_its_own_images_by_name(tree):
    assert names(list_images(tree), tree) == ["a.PNG", "b.jpg", "odd[1].jpg"]


def test_patterns_files_and_order(tree):
    assert names(list_images([f"{tree}/**/*.webp"]), tree) == ["sub/c.webp"]
    assert names(list_images([tree / "sub", f"{tree}/*.jpg"]), tree) == [
        "sub/c.webp",
        "b.jpg",
        "odd[1].jpg",
    ]
    assert names(list_images([tree / "odd[1].jpg"]), tree) == ["odd[1].jpg"]
    # A file named explicitly is listed whatever its extension.
    assert names(list_images(tree / "notes.txt"), tree) == ["notes.txt"]


def test_a_file_reached_twice_is_listed_once(tree):
    assert names(list_images([tree / "b.jpg", tree, tree / "sub" / ".." / "b.jpg"]), tree) == [
        "b.jpg",
        "a.PNG",
        "odd[1].jpg",
    ]


RARER = [".avif", ".jp2", ".gif"]


def encoded_as(image: np.ndarray, extension: str) -> bytes:
    if extension == ".gif":  # OpenCV's writer dithers
        return encoded(image, "GIF")
    try:
        done, data = cv2.imencode(extension, image[..., ::-1])
    except cv2.error:
        done = False
    if not done:
        pytest.skip(f"this OpenCV does not write {extension}")
    return data.tobytes()


@pytest.mark.parametrize("extension", RARER)
def test_rarer_formats_are_read_in_their_size_and_colours(extension):
    for height, width in ((64, 96), (48, 200)):
        image = quarters(height, width)
        data = encoded_as(image, extension)
        assert image_size(data) == (width, height)
        found = decode_image(data, f"x{extension}")
        assert found.shape == image.shape
        assert np.abs(found.astype(int) - image).mean() < 12


@pytest.mark.parametrize("extension", [".avif", ".jp2"])
def test_a_truncated_box_is_refused(extension):
    data = encoded_as(quarters(), extension)
    assert is_whole(data)
    for kept in (len(data) - 1, len(data) // 2, 40):
        assert image_size(data[:kept]) in (None, (96, 64))
        with pytest.raises(InputError, match=f"x{extension}: must be a"):
            decode_image(data[:kept], f"x{extension}")


def test_transparent_pixels_of_rarer_formats_show_the_background():
    image = np.zeros((64, 96, 4), np.uint8)
    image[:, :48] = (0, 0, 255, 255)
    done, data = cv2.imencode(".avif", image)
    if not done:
        pytest.skip("this OpenCV does not write .avif")
    found = decode_image(data.tobytes(), "x.avif", background=(0, 255, 0)).astype(int)
    assert np.abs(found[:, :44] - (255, 0, 0)).max() < 40
    assert np.abs(found[:, 52:] - (0, 255, 0)).max() < 40


def test_media_that_is_not_read_is_listed(tree):
    for name in ("x.HEIC", "clip.MP4", "notes.txt"):
        (tree / name).write_bytes(b"")
    images = [path.name for path in list_images(tree)]
    assert [path.name for path in unread_media(tree)] == ["clip.MP4", "x.HEIC"]
    assert [path.name for path in unread_media([str(tree / "*.HEIC"), tree / "b.jpg"])] == [
        "x.HEIC"
    ]
    assert not {"x.HEIC", "clip.MP4", "notes.txt"} & set(images)
    (tree / "films").mkdir()
    (tree / "films" / "a.mov").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 other file that looks like an image or video: a\.mov"):
        list_images(tree / "films")


def test_sources_without_images_are_refused(tree):
    (tree / "empty").mkdir()
    for source, reason in (
        ("empty", "the folder must hold images"),
        ("*.bmp", "no match"),
        ("gone.jpg", "no such file"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            list_images([tree / "b.jpg", tree / source])
        assert str(caught.value).startswith(str(tree / source))
    with pytest.raises(InputError, match="Received: none"):
        list_images([])
