"""Scenes on disk, and their division into those for training and those held out."""

from __future__ import annotations

import collections
import hashlib
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Sequence

from hdrops.io import IMAGE_ENDINGS, RAW_ENDINGS, InputError

LINEAR_ENDINGS = (".hdr", ".exr")  # of the images that hold radiance
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def _is_image(path: pathlib.Path) -> bool:
    return path.suffix.lower() in (*IMAGE_ENDINGS, *RAW_ENDINGS)


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The image files of a folder by their endings, hidden ones left out, in the order of their names."""
    return sorted(path for path in folder.iterdir() if _is_image(path) and path.name[0] != "." and path.is_file())


def _folders_of_images(root: pathlib.Path, nested: bool) -> list[tuple[pathlib.Path, list[pathlib.Path]]]:
    """The folders at and below one that hold images, and these, in the order of their paths.

    Links are followed; of folders that they lead to repeatedly, only the first is looked into. Hidden folders are left
    out, and without ``nested`` folders below such as hold images.

    Raises:
        InputError: a folder that cannot be read.
    """
    found = []
    seen: set[pathlib.Path] = set()

    def look(folder: pathlib.Path) -> None:
        if folder.resolve() in seen:
            return
        seen.add(folder.resolve())
        images = images_in(folder)
        if images:
            found.append((folder, images))
        if nested or not images:
            for below in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
                look(below)

    try:
        look(root)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error
    return found


def images_below(root: pathlib.Path) -> list[pathlib.Path]:
    """The image files at any depth below a folder, as :func:`find_scenes` looks through it; or the file.

    Raises:
        InputError: a folder that cannot be read.
    """
    if root.is_dir():
        return [image for _, images in _folders_of_images(root, nested=True) for image in images]
    return [root] if _is_image(root) else []


def listed(places: Paths) -> list[pathlib.Path]:
    """One path or several, as a list."""
    given = [places] if isinstance(places, str | os.PathLike) else places
    return [pathlib.Path(place) for place in given]


def find_scenes(folders: Paths) -> list[pathlib.Path]:
    """The scenes below some folders: every folder that holds image files is one, at any depth.

    Below a folder of images nothing is looked for, so that no scene is part of another.

    Args:
        folders: one folder or several; a folder of images is a scene itself. Hidden folders are left out.

    Returns:
        The folders of the scenes, in the order of their paths below each of ``folders``; each once, whatever links lead
        to it.

    Raises:
        InputError: a folder that does not exist or cannot be read.
    """
    found: dict[pathlib.Path, None] = {}
    for root in listed(folders):
        if not root.is_dir():
            raise InputError(f"{root} is no folder; give the folder of one scene or of several")
        found |= dict.fromkeys(folder for folder, _ in _folders_of_images(root, nested=False))
    return list(found)


def scene_names(places: Sequence[pathlib.Path]) -> list[str]:
    """Names that tell scenes apart: the last parts of their paths, as few as needed."""
    parts = [place.resolve().parts for place in places]
    names = [""] * len(parts)
    for count in range(1, max(map(len, parts), default=0) + 1):
        occurring = collections.Counter(part[-count:] for part in parts)
        for k, part in enumerate(parts):
            if not names[k] and (occurring[part[-count:]] == 1 or count >= len(part)):
                names[k] = "/".join(part[-count:])
    return names


def split_scenes(
    scenes: Paths,
    held_out: float | Collection[str] = 0.2,
    seed: int = 0,
    *,
    subject: Callable[[str], str] = str,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Divide scenes into those to train with and those held out: whole scenes, never single files.

    A scene is known by its name, the last part of its path without the ending of an image: scenes of one name stay
    together, and neither the place of the data nor the order of the list counts.

    Args:
        scenes: folders of brackets (:func:`find_scenes`), HDR files, or names.
        held_out: the names to hold out; or the share, above 0 and below 1: the scenes of the lowest hashes of ``seed``
            and name, at least one, and not all.
        seed: of the hash.
        subject: of a name: scenes of one subject, such as two photographs of a place, stay together, and a share is
            one of the subjects.

    Returns:
        The scenes for training and the scenes held out, each in the given order.

    Raises:
        ValueError: a share out of range, a name that is not among the scenes, a subject on both sides, or fewer than
            two subjects to share out.
    """
    places = listed(scenes)
    names = [path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name for path in places]
    subjects = {name: subject(name) for name in names}
    if isinstance(held_out, int | float):
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must be a share above 0 and below 1, or names, got {held_out}")
        known = set(subjects.values())
        if len(known) < 2:
            raise ValueError(f"at least two scenes are needed to hold some out, got {len(known)}")
        ranked = sorted(known, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
        chosen = set(ranked[: min(max(1, round(held_out * len(known))), len(known) - 1)])
        kept_out = {name for name in names if subjects[name] in chosen}
    else:
        kept_out = set(held_out)
        missing = sorted(kept_out - set(names))
        if missing:
            raise ValueError(f"held_out names {missing[0]!r}, which is not among the {len(set(names))} scenes")
        torn = sorted(name for name in set(names) - kept_out if subjects[name] in {subjects[n] for n in kept_out})
        if torn:
            raise ValueError(f"held_out leaves out {torn[0]!r}, which shows the same as a scene that it names")
    sides: tuple[list[pathlib.Path], list[pathlib.Path]] = ([], [])
    for place, name in zip(places, names, strict=True):
        sides[name in kept_out].append(place)
    return sides
