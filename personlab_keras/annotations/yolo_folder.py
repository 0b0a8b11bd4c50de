"""Locates the images and label files of a YOLO-pose data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from personlab_keras.annotations.yolo_pose import SPLITS, YoloPose, parse_data_yaml
from personlab_keras.errors import InputError
from personlab_keras.io.files import SMALL, SMALL_YAML, parse_yaml, read_small
from personlab_keras.io.images import EXTENSIONS

NO_LABELS = frozenset({"classes.txt"})
"""Text files that annotation tools write beside label files."""


@dataclass(frozen=True)
class YoloFolder:
    """One split of a YOLO-pose data set.

    Attributes:
        data: the parsed data.yaml; None if the folder has none.
        source: the data.yaml or the folder, for messages.
        root: the common folder of all images, resolved.
        images: their names below `root`, sorted.
        outside: list entries that lead out of `root`.
        repeated: repeated list entries.
        strays: label files without an image.
    """

    data: YoloPose | None
    source: str
    root: Path
    images: tuple[str, ...]
    outside: tuple[str, ...]
    repeated: tuple[str, ...]
    strays: tuple[Path, ...]

    def label_file(self, image: str) -> Path:
        """The path of an image's label file, whether it exists or not."""
        return label_path(self.root / image)


def is_yolo(path: str | Path) -> bool:
    """Whether a path is a YOLO-pose data set: a folder or a YAML file."""
    return Path(path).is_dir() or Path(path).suffix.lower() in (".yaml", ".yml")


def label_path(image: Path) -> Path:
    """The label file of an image: the last folder named `images` becomes `labels`, and the suffix
    `.txt`. Without such a folder it lies beside the image.

    >>> label_path(Path("set/images/train/a.b.jpg")).as_posix()
    'set/labels/train/a.b.txt'
    >>> label_path(Path("set/a.jpg")).as_posix()
    'set/a.txt'
    """
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts) / f"{image.stem}.txt"


def open_yolo(path: str | Path, split: str | None = None) -> YoloFolder:
    """The images of a split.

    Args:
        path: a data.yaml, or a folder with one or with `images` and `labels`.
        split: "train", "val" or "test"; None for the only one.

    Raises:
        InputError: if the path is neither, the data.yaml is malformed, the split is missing or
            ambiguous, or it has no images.
    """
    place = Path(path)
    file = _data_yaml(place) if place.is_dir() else place
    if file is None:
        return _plain_folder(place, split)
    source = str(file)
    data = parse_data_yaml(load_yaml(file), source)
    if not data.splits:
        raise InputError(f"{source}: must have train or val, folders of images. Received: neither")
    root, folders, lists = _places(file, data, _chosen(list(data.splits), split, source))
    return _collect(data, source, root, folders, lists)


def _data_yaml(folder: Path) -> Path | None:
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return folder / name
    others = [
        file
        for file in sorted(folder.glob("*.y*ml"))
        if isinstance(content := load_yaml(file), dict) and "kpt_shape" in content
    ]
    if len(others) > 1:
        names = ", ".join(file.name for file in others)
        raise InputError(f"{folder}: must hold one data.yaml. Received: {names}")
    return others[0] if others else None


def load_yaml(file: Path) -> object:
    return parse_yaml(read_text(file, SMALL_YAML), str(file))


def read_text(file: Path, most: int = SMALL) -> str:
    """The text of a small file, with or without a byte order mark.

    Raises:
        InputError: if it is missing, no regular file, unreadable, too large, or not in UTF-8.
    """
    try:
        return read_small(file, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: must be in UTF-8") from None


def _chosen(splits: list[str], split: str | None, source: str) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        came = "nothing" if split is None else repr(split)
        raise InputError(f"{source}: --split must be one of {', '.join(splits)}. Received: {came}")
    return split


def _plain_folder(folder: Path, split: str | None) -> YoloFolder:
    """A folder without a data.yaml: `images` and `labels`, optionally with a subfolder per split,
    or one such pair per split.
    """
    pairs = {each: folder / "images" / each for each in SPLITS} | {
        each: folder / each / "images" for each in SPLITS if (folder / each / "images").is_dir()
    }
    splits = {each: place for each, place in pairs.items() if place.is_dir()}
    if splits:
        chosen = splits[_chosen(list(splits), split, str(folder))]
    elif (folder / "images").is_dir():
        chosen = folder / "images"
    else:
        raise InputError(
            f"{folder}: must be a COCO file, or a YOLO-pose folder with a data.yaml, or with images "
            "and labels. Received: a folder without"
        )
    if not splits and split is not None:
        raise InputError(f"{folder}: has no splits. Received: --split {split}")
    return _collect(None, str(folder), chosen.resolve(), [chosen], [])


def _places(file: Path, data: YoloPose, split: str) -> tuple[Path, list[Path], list[Path]]:
    """The data set's root, and the folders and lists of a split.

    `path` is relative to the file here, to the working directory in Ultralytics, and often from
    another machine: the first root that contains the split is taken.
    """
    wanted = (data.splits or {})[split]
    beside = file.parent
    roots = [beside / data.root, Path(data.root)] if data.root else []
    for root in [*roots, beside]:
        found = [place for name in wanted if (place := _below(root, name)) is not None]
        if len(found) == len(wanted):
            folders = [place for place in found if place.is_dir()]
            return root, folders, [place for place in found if not place.is_dir()]
    missing = next(name for name in wanted if _below(beside, name) is None)
    raise InputError(
        f"{file}: {split} must be there. Received: {missing!r}, looked for below "
        f"{', '.join(dict.fromkeys(str(root) for root in [*roots, beside]))}"
    )


def _below(root: Path, name: str) -> Path | None:
    """A folder of images, or a list of them. Roboflow writes `../train/images` for a folder beside
    the data.yaml.
    """
    names = [name, name.removeprefix("../")] if name.startswith("../") else [name]
    return next((root / each for each in names if (root / each).exists()), None)


def _collect(
    data: YoloPose | None, source: str, root: Path, folders: list[Path], lists: list[Path]
) -> YoloFolder:
    # The data.yaml itself may name symbolic links.
    real = [folder.resolve() for folder in folders] + ([root.resolve()] if lists else [])
    top = Path(os.path.commonpath(real))
    images: dict[str, None] = {}
    outside, repeated = [], []
    for folder in real[: len(folders)]:
        for file in _files(folder):
            if file.suffix.lower() in EXTENSIONS:
                images[file.relative_to(top).as_posix()] = None
    for listing in lists:
        for line in read_text(listing).splitlines():
            entry = line.strip()
            if not entry:
                continue
            name = _entry(entry, listing, root, top)
            if name is None:
                outside.append(entry)
            elif name in images:
                repeated.append(entry)
            else:
                images[name] = None
    if not images and not outside:
        places = ", ".join(str(place) for place in [*folders, *lists])
        raise InputError(
            f"{source}: must have images ({', '.join(sorted(EXTENSIONS))}). Received: none in {places}"
        )
    names = tuple(sorted(images))
    return YoloFolder(
        data=data,
        source=source,
        root=top,
        images=names,
        outside=tuple(outside),
        repeated=tuple(repeated),
        strays=_strays([top / name for name in names], real[: len(folders)]),
    )


def _entry(entry: str, listing: Path, root: Path, top: Path) -> str | None:
    """The name, below `top`, of an image in a list; None if it lies elsewhere. `./` is relative to
    the list, other names to the data set's root or the list, whichever exists.
    """
    name = PurePosixPath(entry.replace("\\", "/"))
    bases = [listing.parent] if entry.startswith("./") else [root, listing.parent]
    found = [Path(os.path.normpath(base.resolve() / name)) for base in bases]
    path = next((each for each in found if each.is_file()), found[0])
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else None


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, except hidden ones."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _strays(images: list[Path], folders: list[Path]) -> tuple[Path, ...]:
    """The label files that belong to no image in the folders; a list may omit images."""
    known = {label_path(image) for image in images}
    places = {label_path(folder / "x").parent for folder in folders}
    return tuple(
        sorted(
            file
            for place in places
            for file in _files(place)
            if file.suffix.lower() == ".txt" and file.name not in NO_LABELS and file not in known
        )
    )


def image_ids(names: tuple[str, ...]) -> dict[str, int]:
    """An id for every image: the number in its name if all names are distinct numbers, as in COCO;
    otherwise its rank by name, from 1.

    >>> image_ids(("a/000000000009.jpg", "b/000000000025.jpg"))
    {'a/000000000009.jpg': 9, 'b/000000000025.jpg': 25}
    >>> image_ids(("a.jpg", "b.jpg"))
    {'a.jpg': 1, 'b.jpg': 2}
    """
    stems = [PurePosixPath(name).stem for name in names]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) < 19]
    if len(set(numbers)) < len(names):
        numbers = list(range(1, len(names) + 1))
    return dict(zip(names, numbers, strict=True))
