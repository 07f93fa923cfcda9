"""Which results belong to which scene: by the names of files and folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from hdrops_cli.bracket import images_below, inspected


@dataclass(frozen=True)
class Method:
    """Pictures that are compared with those of other methods: those of a folder, or a single one.

    Attributes:
        name: the folder's or the picture's.
        path: of the folder or the picture.
        pictures: paths of the pictures by their paths within the folder.
    """

    name: str
    path: Path
    pictures: Mapping[PurePath, Path]


@dataclass
class Scene:
    """What results are measured against.

    Attributes:
        name: its path within the folder of sources or references, without ending.
        against: the frames of a bracket, in any order, or the one reference.
        results: the picture of each method that has one.
    """

    name: str
    against: Sequence[Path]
    results: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What there is to evaluate.

    Attributes:
        scenes: in the order of their names, each with a result of some method at least.
        idle: number of scenes without any result.
        doubts: partners that were found by being the only ones, one line each.
    """

    scenes: list[Scene]
    idle: int
    doubts: list[str]


def methods_of(results: Sequence[str], against: Path, failures: list[str]) -> list[Method]:
    """The methods that the arguments ``PATH`` or ``NAME=PATH`` name."""
    from hdrops.io import InputError

    methods: list[Method] = []
    for text in results:
        name, equals, rest = text.partition("=")
        path = Path(text)
        if equals and name and rest and not path.exists():
            path = Path(rest)
        else:
            name = path.resolve().name if path.is_dir() else path.stem
        if not path.exists():
            raise InputError(f"{path} does not exist; give a folder of pictures, or a picture")
        if path.is_dir():
            left_out = [against] if against.resolve() != path.resolve() else []
            pictures = {PurePath(f.relative_to(path)): f for f in images_below(path, left_out, failures)}
            if not pictures:
                raise InputError(f"{path} is a folder without images; give the folder that holds the results")
        else:
            pictures = {PurePath(path.name): path}
        other = next((method for method in methods if method.name == name), None)
        if other is not None:
            raise InputError(f"{other.path} and {path} are both named {name}; rename one of them: other={path}")
        methods.append(Method(name, path, pictures))
    return methods


def plan_sources(
    methods: Sequence[Method], sources: Path, suffix: str, per_set: int | None, failures: list[str]
) -> Plan:
    """Find the bracket of each result.

    A result ``a/x.png``, or ``a/x_fused.png``, belongs to the bracket in the folder ``a/x`` of the sources; else to
    the one in ``a`` that begins with the image ``x``; else, as the only result in its folder, to all images of ``a``,
    which is doubtful unless that result was named itself.
    """
    from hdrops.io import InputError, group_frames

    if not sources.is_dir():
        raise InputError(f"{sources} is no folder; --sources names the folder of the brackets")
    results = {file.resolve() for method in methods for file in method.pictures.values()}
    folders: dict[PurePath, list[Path]] = {}
    only_results = False
    inside = [m.path for m in methods if m.path.is_dir() and m.path.resolve() != sources.resolve()]
    for file in images_below(sources, inside, failures):
        if file.resolve() not in results:
            folders.setdefault(PurePath(file.parent.relative_to(sources)), []).append(file)
        else:
            only_results = True
    if not folders and only_results:
        raise InputError(
            f"{sources} holds the results themselves and no other image; --sources names the folder of the brackets "
            "that they were fused from"
        )
    if not folders:
        raise InputError(f"{sources} is a folder without images; --sources names the folder of the brackets")

    places: list[tuple[Method, Path, PurePath, Path | None]] = []
    doubts: list[str] = []
    for method in methods:
        for name, file in method.pictures.items():
            alone = sum(other.parent == name.parent for other in method.pictures) == 1
            place = _place(name, alone, folders, suffix)
            if place is None:
                failures.append(f"{file}: no scene of this name in {sources}, neither a folder nor a first image")
            else:
                folder, first, named = place
                places.append((method, file, folder, first))
                if not named and method.path != file:
                    doubts.append(
                        f"{file}: no scene of this name; as the only result of its folder it is taken for that of "
                        f"{sources / folder}"
                    )

    shared = dict.fromkeys(folder for _, _, folder, first in places if first is not None)
    brackets: dict[PurePath, dict[Path, list[Path]]] = {}
    for path, frames in inspected({sources / folder: folders[folder] for folder in shared}).items():
        found = [group.frames for group in group_frames(frames, per_set=per_set) if group.verdict == "bracket"]
        brackets[PurePath(path.relative_to(sources))] = {x[0].path: [frame.path for frame in x] for x in found}

    scenes: dict[str, Scene] = {}
    for method, file, folder, first in places:
        own = brackets.get(folder, {})
        scene, images = folder.as_posix() if folder.parts else sources.resolve().name, folders[folder]
        if len(own) == 1 and (first is None or first in own):
            (images,) = own.values()
        elif own and first is not None:
            if first not in own:
                failures.append(f"{file}: no bracket in {sources / folder} begins with {first.name}; try --per-set")
                continue
            unique = sum(image.stem == first.stem for image in folders[folder]) == 1
            scene, images = (folder / (first.stem if unique else first.name)).as_posix(), own[first]
        _add(scenes, scene, images, method, file, failures)
    used = {image for scene in scenes.values() for image in scene.against}
    return Plan(_sorted(scenes), sum(used.isdisjoint(images) for images in folders.values()), doubts)


def _place(
    name: PurePath, alone: bool, folders: Mapping[PurePath, Sequence[Path]], suffix: str
) -> tuple[PurePath, Path | None, bool] | None:
    """The folder that a result's bracket is in, the image it begins with where the result is named after that, and
    whether the result is named after either."""
    stems = dict.fromkeys((name.stem, name.stem.removesuffix(suffix)))
    for stem in stems:
        if stem and name.parent / stem in folders:
            return name.parent / stem, None, True
    images = folders.get(name.parent, ())
    # Of IMG_1.jpg and IMG_1.tif, which may both begin a bracket, fuse names the latter's result IMG_1_tif.
    named = {key: image for image in reversed(images) for key in (image.name.replace(".", "_"), image.stem)}
    for stem in stems:
        if stem in named:
            return name.parent, named[stem], True
    return (name.parent, None, False) if images and alone else None


def plan_references(methods: Sequence[Method], reference: Path, suffix: str, failures: list[str]) -> Plan:
    """Find the reference of each result: that of its name; else the only one for the only picture of a method.

    The latter is doubtful unless one of the two was named itself.
    """
    from hdrops.io import InputError

    if not reference.exists():
        raise InputError(f"{reference} does not exist; --reference names a picture, or the folder of them")
    if reference.is_dir():
        inside = [m.path for m in methods if m.path.is_dir()]
        references = {PurePath(f.relative_to(reference)): f for f in images_below(reference, inside, failures)}
        if not references:
            raise InputError(f"{reference} is a folder without images; --reference names the folder of the references")
    else:
        references = {PurePath(reference.name): reference}
    by_stem: dict[PurePath, list[PurePath]] = {}
    for name in references:
        by_stem.setdefault(name.with_suffix(""), []).append(name)

    scenes: dict[str, Scene] = {}
    used = set()
    doubts: list[str] = []
    for method in methods:
        for name, file in method.pictures.items():
            stems = dict.fromkeys((name.stem, name.stem.removesuffix(suffix)))
            keys = [name.parent / stem for stem in stems if stem and name.parent / stem in by_stem]
            partners = by_stem[keys[0]] if keys else []
            if name in references:
                partners = [name]
            elif not partners and len(references) == 1 and len(method.pictures) == 1:
                partners = list(references)
                if method.path != file and reference.is_dir():
                    doubts.append(
                        f"{file}: no reference of this name; it is measured against {references[partners[0]]}, since "
                        "either is the only picture of its folder"
                    )
            if len(partners) != 1:
                problem = "has several of this name" if partners else "has no picture of this name"
                failures.append(f"{file}: {reference} {problem}")
                continue
            used.add(partners[0])
            scene = partners[0].with_suffix("").as_posix()
            if len(by_stem[partners[0].with_suffix("")]) > 1:
                scene = partners[0].as_posix()
            _add(scenes, scene, [references[partners[0]]], method, file, failures)
    return Plan(_sorted(scenes), len(references) - len(used), doubts)


def _add(
    scenes: dict[str, Scene], name: str, against: Sequence[Path], method: Method, file: Path, failures: list[str]
) -> None:
    results = scenes.setdefault(name, Scene(name, against)).results
    if method.name in results:
        failures.append(f"{file}: {results[method.name].name} is of the same scene, {name}; remove one of them")
    else:
        results[method.name] = file


def _sorted(scenes: Mapping[str, Scene]) -> list[Scene]:
    return [scenes[name] for name in sorted(scenes)]
