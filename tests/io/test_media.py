"""What the sources of a prediction name."""

import os
from pathlib import Path

import pytest

from personlab_keras.errors import InputError
from personlab_keras.io.images import describe_unread
from personlab_keras.io.media import list_media


@pytest.fixture
def tree(tmp_path):
    for name in (
        "a.jpg",
        "b.MP4",
        "c.HEIC",
        "d.txt",
        "sub/e.avi",
        "sub/f.png",
        "g[1].mp4",
        "only/h.jxl",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def named(sources):
    media = list_media(sources)
    return tuple(
        [Path(each).name for each in group] for group in (media.images, media.videos, media.unread)
    )


def test_folders_and_patterns_give_images_and_videos_and_what_is_left(tree):
    assert named(tree) == (["a.jpg"], ["b.MP4", "g[1].mp4"], ["c.HEIC"])
    assert named(f"{tree}/**/*") == (
        ["a.jpg", "f.png"],
        ["b.MP4", "g[1].mp4", "e.avi"],
        ["c.HEIC", "h.jxl"],
    )
    assert named([f"{tree}/*.MP4", f"{tree}/sub/*.avi"]) == ([], ["b.MP4", "e.avi"], [])


def test_each_is_listed_once_in_the_order_of_the_sources(tree):
    sources = [
        "1",
        f"{tree}/sub/e.avi",
        "rtsp://cam/1",
        tree / "sub",
        tree / "sub" / ".." / "a.jpg",
    ]
    media = list_media([*sources, "1", "rtsp://cam/1", tree / "a.jpg"])
    assert media.videos == ("1", f"{tree}/sub/e.avi", "rtsp://cam/1")
    assert [path.name for path in media.images] == ["f.png", "a.jpg"]


def test_a_file_by_its_name(tree):
    # Brackets are a pattern only if no file has that name; any other extension is an image.
    assert named(tree / "g[1].mp4") == ([], ["g[1].mp4"], [])
    assert named(tree / "d.txt") == (["d.txt"], [], [])
    assert named(tree / "c.HEIC") == (["c.HEIC"], [], [])
    assert list_media("missing.mp4").videos == ("missing.mp4",)  # refused when it is opened


def test_sources_without_media_are_refused(tree):
    with pytest.raises(
        InputError,
        match=r"only: the folder must hold images or videos\. Received: 1 other file .*h\.jxl",
    ):
        list_media(tree / "only")
    with pytest.raises(
        InputError, match=r"\*\.mov: the pattern must match images or videos\. Received: no match"
    ):
        list_media(f"{tree}/*.mov")
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        list_media("nowhere")
    with pytest.raises(InputError, match=r"Received: none"):
        list_media([])


def test_what_cannot_be_read_as_a_file_is_counted(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "album.jpg").mkdir()
    (tmp_path / "photo.jpg").touch()
    media = list_media(tmp_path)
    assert media.images == (tmp_path / "photo.jpg",)
    assert describe_unread(media.unread) == (
        "2 other files that look like images or videos: gone.png (a link that leads nowhere), "
        "pipe.jpg (a pipe or a device)"
    )
