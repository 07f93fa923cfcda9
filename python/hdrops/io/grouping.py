"""Which photographs of a folder belong together: brackets told apart by time, exposure and brightness."""

from __future__ import annotations

import datetime
import itertools
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hdrops.io.bracket import recorded_times
from hdrops.io.brightness import Tones, contradiction, measure_tones, scene_likeness, stops_between
from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure
from hdrops.io.reading import read_image

_PAUSE = 10.0  # seconds between two frames of a bracket, besides what their exposures take
_EXPOSURES_PER_FRAME = 3.0  # a long exposure is often followed by a dark frame as long, and by its storage
_OTHER_SCENE, _SAME_SCENE = 0.3, 0.6  # likeness of neighbours below and above which there is no doubt
_STATED_EQUAL, _MEASURED_EQUAL = 1 / 6, 0.25  # stops up to which two exposures count as one
_STATED_ALIKE, _MEASURED_ALIKE = 0.5, 1.25  # stops by which the frames of two brackets of one kind may differ
_ADVICE = "state the number of frames per set (--per-set)"

# Stops from the frame of one index to the frame of another; None where unknown.
_Difference = Callable[[int, int], float | None]


@dataclass(frozen=True)
class Frame:
    """What grouping needs to know of a file.

    Attributes:
        path: of the file.
        exposure: its exposure metadata.
        captured: when it was taken, in seconds since 1970 by the camera's clock, or None.
        camera: maker and model, or "".
        format: as of a :class:`Photograph`, or "".
        shape: (C, H, W).
        bits: per value: 8, 16 or 32.
        tones: its measured brightness, or None.
        error: why the file cannot be read, in one line, or "".
    """

    path: pathlib.Path
    exposure: Exposure = field(default_factory=Exposure)
    captured: float | None = None
    camera: str = ""
    format: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    bits: int = 8
    tones: Tones | None = None
    error: str = ""


@dataclass(frozen=True)
class Group:
    """Files that were found to belong together.

    Attributes:
        frames: in the order of capture, or of their names where the times of capture are unknown.
        verdict: "bracket"; "skipped": no bracket, such as a single image; "refused": it may be one or several.
        decided_by: what told the group from others: "time", "name" or "count", and "exif" or "brightness".
        reason: of a verdict other than "bracket", in one line.
        stops: of each frame against the first one, from the files' exposures or measured; None where unknown.
        warnings: what is wrong with the files' exposures, one line each.
    """

    frames: tuple[Frame, ...]
    verdict: Literal["bracket", "skipped", "refused"]
    decided_by: str
    reason: str = ""
    stops: tuple[float | None, ...] = ()
    warnings: tuple[str, ...] = ()


def inspect_image(path: str | os.PathLike[str]) -> Frame:
    """Read and measure one file for :func:`group_frames`; whatever is wrong with it becomes ``Frame.error``."""
    file = pathlib.Path(path)
    try:
        photograph = read_image(file)
    except InputError as error:
        return Frame(path=file, error=str(error))
    channels, height, width = photograph.pixels.shape
    metadata = photograph.metadata
    moment = metadata.taken_at
    return Frame(
        path=file,
        exposure=photograph.exposure,
        captured=None if moment is None else moment.replace(tzinfo=datetime.UTC).timestamp(),
        camera=f"{metadata.make or ''} {metadata.model or ''}".strip(),
        format=photograph.format,
        shape=(channels, height, width),
        bits=photograph.bits,
        tones=measure_tones(photograph.pixels),
    )


def group_frames(
    frames: Iterable[Frame], *, per_set: int | None = None, exposures: Sequence[float] | None = None
) -> list[Group]:
    """Group photographs into brackets, folder by folder. The order in which the files are given does not matter.

    Files of different formats are grouped apart. With ``per_set``, each so many files in the order of their names are
    a set; a remainder is refused. Without:

    1. Files that differ in size, channels, bits or camera do not belong together.
    2. Nor do files taken more than 10 s apart, to which three times the exposure time is added; files without a
       time of capture follow the order of their names.
    3. Nor do neighbours that clearly show different scenes. Where neither times of capture nor exposures are
       known, it must be clear that they show the same one, or they are refused.
    4. Where an exposure occurs again, the cycle of the exposures starts anew. Exposures are those of the files;
       where these are missing, or all the same in spite of the pictures, they are measured. Cycles that are not
       alike are refused, except that single images may precede and follow.

    A single image and a series of one exposure are skipped. A file that cannot be read is refused, and so is the
    bracket that has it between its frames. Files whose names contain numbers are ordered by them.

    Args:
        frames: facts of the files, as from :func:`inspect_image`.
        per_set: files per set, at least 2.
        exposures: of the files of each set, in the order of their names, positive and finite, in seconds or relative;
            they count instead of those in the files, and their number is that of the files per set.

    Returns:
        Groups in the order of their first files' names; every file is in exactly one.

    Raises:
        InputError: ``per_set`` below 2 or other than the number of ``exposures``, or these are not positive.
    """
    if exposures is not None:
        if per_set not in (None, len(exposures)):
            raise InputError(f"{len(exposures)} exposures are stated for sets of {per_set}; make them agree")
        if not all(0 < value < math.inf for value in exposures):
            raise InputError("exposures must be positive and finite, got " + ", ".join(f"{x:g}" for x in exposures))
        per_set = len(exposures)
    if per_set is not None and per_set < 2:
        raise InputError(f"a set has at least 2 files, got {per_set}")
    groups: list[Group] = []
    ordered = sorted(frames, key=lambda frame: (_natural(str(frame.path.parent)), _natural(frame.path.name)))
    for _, listed in itertools.groupby(ordered, key=lambda frame: frame.path.parent):
        files = list(listed)
        place = {frame.path: k for k, frame in enumerate(files)}
        found: list[Group] = []
        for _, same in itertools.groupby(sorted(files, key=_format), key=_format):
            alike = list(same)
            found += _by_evidence(alike) if per_set is None else _by_count(alike, per_set, exposures)
        groups += sorted(found, key=lambda group: min(place[frame.path] for frame in group.frames))
    return groups


def _format(frame: Frame) -> str:
    return frame.path.suffix.casefold()


def _natural(text: str) -> tuple[object, ...]:
    """A key that orders IMG_9 before IMG_10."""
    parts = re.split(r"(\d+)", text)  # words and numbers in turn
    return tuple(int(part) if k % 2 else part.casefold() for k, part in enumerate(parts)), text


# ---- sets of a stated size -----------------------------------------------------------------------------------------


def _by_count(files: Sequence[Frame], per_set: int, exposures: Sequence[float] | None) -> list[Group]:
    groups = []
    for start in range(0, len(files), per_set):
        members = tuple(files[start : start + per_set])
        broken = next((frame.error for frame in members if frame.error), "")
        kinds = {(frame.shape, frame.bits): frame for frame in members}
        reason = ""
        if len(members) < per_set:
            reason = f"left over of {len(files)} files in sets of {per_set}"
        elif broken:
            reason = broken
        elif len(kinds) > 1:
            reason = "the frames of a set must agree: " + ", ".join(map(_describe, list(kinds.values())[:2]))
        if reason:
            groups.append(Group(members, "refused", "count", reason))
            continue
        warnings = [
            f"{other[0].path.name} does not seem to show the scene of {one[-1].path.name}"
            for (one, _), (other, _) in itertools.pairwise(_scenes(members))
        ]
        stated = exposures or recorded_times([frame.exposure for frame in members])
        conflict = _conflict(members, stated)
        if conflict is not None:
            whose = "stated exposures contradict" if exposures else "exposures in the files contradict"
            counts = "the stated ones count" if exposures else "brightness counts"
            warnings.append(f"the {whose} the brightness of the frames ({conflict}); {counts}")
        stops = _stops(members, stated if exposures or conflict is None else None)
        groups.append(Group(members, "bracket", "count", stops=stops, warnings=tuple(warnings)))
    return groups


def _describe(frame: Frame) -> str:
    channels, height, width = frame.shape
    return f"{frame.path.name} is {width} x {height}, {frame.bits}-bit {'grey' if channels == 1 else 'RGB'}"


# ---- brackets by what the files say and show -----------------------------------------------------------------------


def _by_evidence(files: Sequence[Frame]) -> list[Group]:
    """Group the files of one folder and format, given in the order of their names."""
    groups: list[Group] = []
    for run in _runs([frame for frame in files if not frame.error]):
        for shot, unclear in _scenes(run):
            groups += [_unclear(shot, unclear)] if unclear else _brackets(shot)
    return _without_broken(files, groups)


def _runs(listed: Sequence[Frame]) -> list[list[Frame]]:
    """Files that no difference in kind and no pause separates."""

    def kind(frame: Frame) -> tuple[object, ...]:
        return frame.captured is not None, frame.format, frame.shape, frame.bits, frame.camera

    runs = []
    # The clock puts files of several kinds in order, even if their names are interleaved; names alone do not.
    timed: dict[tuple[object, ...], list[Frame]] = {}
    for _, neighbours in itertools.groupby(listed, key=lambda frame: (kind(frame), frame.exposure.time is None)):
        run = list(neighbours)
        if run[0].captured is None:
            runs.append(run)
        else:
            timed.setdefault(kind(run[0]), []).extend(run)
    for frames in timed.values():
        ordered = sorted(frames, key=lambda frame: frame.captured or 0.0)  # equal times keep the order of the names
        run = ordered[:1]
        for before, frame in itertools.pairwise(ordered):
            if _pause(before, frame) > _PAUSE + _EXPOSURES_PER_FRAME * (before.exposure.time or 0.0):
                runs.append(run)
                run = []
            run.append(frame)
        runs.append(run)
    return runs


def _pause(before: Frame, frame: Frame) -> float:
    return (frame.captured or 0.0) - (before.captured or 0.0)


def _scenes(run: Sequence[Frame]) -> list[tuple[list[Frame], str]]:
    """Split a run where the scene changes; with each part, the doubt that it is one scene."""
    strict = any(frame.exposure.time is None and frame.captured is None for frame in run)
    parts: list[tuple[list[Frame], str]] = [([run[0]], "")]
    for frame in run[1:]:
        part, unclear = parts[-1]
        # A neighbour in the cycle may be many stops away: one of the last few is near.
        likeness = [x for x in (_likeness(other, frame) for other in part[-3:]) if x is not None]
        if likeness and max(likeness) < _OTHER_SCENE:
            parts.append(([frame], ""))
            continue
        if strict and not unclear and (not likeness or max(likeness) < _SAME_SCENE):
            parts[-1] = (part, f"it is unclear whether {frame.path.name} shows the scene of {part[-1].path.name}")
        part.append(frame)
    return parts


def _likeness(one: Frame, other: Frame) -> float | None:
    return None if one.tones is None or other.tones is None else scene_likeness(one.tones, other.tones)


def _unclear(frames: Sequence[Frame], doubt: str) -> Group:
    reason = f"no exposure times, and {doubt}; {_ADVICE}"
    return Group(tuple(frames), "refused", "name, brightness", reason, _stops(frames, None))


def _brackets(run: Sequence[Frame]) -> list[Group]:
    """The brackets of a run of one scene, or of several that look alike."""
    order = "name" if run[0].captured is None else "time"
    if len(run) == 1:
        reason = "a single image: " + (
            "none beside it is of its kind and scene" if order == "name" else "none of its kind and scene within 10 s"
        )
        return [Group(tuple(run), "skipped", order, reason)]

    stated = recorded_times([frame.exposure for frame in run])
    warning = ""
    if stated is not None:
        values = [math.log2(time) for time in stated]
        if max(values) - min(values) > _STATED_EQUAL:
            cycles = _cycles(len(run), lambda i, j: values[j] - values[i], _STATED_EQUAL, _STATED_ALIKE)
            if not isinstance(cycles, str):
                return [_stated_group([run[k] for k in cycle], [stated[k] for k in cycle], order) for cycle in cycles]
            conflict = _conflict(run, stated)
            if conflict is None:
                return [
                    Group(tuple(run), "refused", f"{order}, exif", f"{cycles}; {_ADVICE}", _stops(run, stated)),
                ]
            warning = _contradicts(conflict)
        else:
            conflict = _conflict(run, stated)
            if conflict is None:
                reason = f"{len(run)} images of one exposure are no bracket"
                return [Group(tuple(run), "skipped", f"{order}, exif", reason, _stops(run, stated))]
            warning = _contradicts(conflict)

    elif untimed := _untimed(run):
        warning = untimed

    decided_by = f"{order}, brightness"
    warnings = (warning,) if warning else ()
    cycles = _cycles(len(run), lambda i, j: _measured(run[i], run[j]), _MEASURED_EQUAL, _MEASURED_ALIKE)
    if isinstance(cycles, str) or any(len(cycle) == 1 for cycle in cycles):
        reason = cycles if isinstance(cycles, str) else "the exposures do not repeat evenly"
        if not isinstance(cycles, str) and all(len(cycle) == 1 for cycle in cycles):
            reason = f"{len(run)} images of about one brightness"
        return [Group(tuple(run), "refused", decided_by, f"{reason}; {_ADVICE}", _stops(run, None), warnings)]
    found = [[run[k] for k in cycle] for cycle in cycles]
    return [Group(tuple(x), "bracket", decided_by, stops=_stops(x, None), warnings=warnings) for x in found]


def _stated_group(frames: Sequence[Frame], stated: Sequence[float], order: str) -> Group:
    if len(frames) == 1:
        reason = "a single image: its exposure is that of the bracket beside it"
        return Group(tuple(frames), "skipped", f"{order}, exif", reason)
    conflict = _conflict(frames, stated)
    return Group(
        tuple(frames),
        "bracket",
        f"{order}, exif",
        stops=_stops(frames, None if conflict else stated),
        warnings=() if conflict is None else (_contradicts(conflict),),
    )


def _cycles(count: int, difference: _Difference, equal: float, alike: float) -> list[list[int]] | str:
    """Split frames into cycles of exposures, or say why that cannot be done for sure.

    Args:
        count: of frames.
        difference: stops from one frame to another.
        equal: stops up to which two exposures are one.
        alike: stops by which corresponding frames of two cycles may differ.

    Returns:
        Indices of the cycles: all alike but for single frames before and after, or only single frames.
    """
    cycles = [[0]]
    for k in range(1, count):
        steps = [difference(j, k) for j in cycles[-1]]
        if any(step is not None and abs(step) <= equal for step in steps):
            cycles.append([])
        cycles[-1].append(k)
    if len(cycles) == 1:
        # Cameras vary exposures outwards: one inside the range of those before starts another cycle.
        outward = [[0]]
        for k in range(1, count):
            known = [step for step in (difference(j, k) for j in outward[-1]) if step is not None]
            if known and min(known) < 0 < max(known):
                outward.append([])
            outward[-1].append(k)
        if not _alike(outward, difference, alike):
            return f"the exposures are not in the order of one bracket (turns after {_listed(outward)} frames)"
        return outward
    longer = [k for k, cycle in enumerate(cycles) if len(cycle) > 1]
    if longer and not _alike(cycles[longer[0] : longer[-1] + 1], difference, alike):
        return f"the exposures do not repeat evenly (after {_listed(cycles)} frames)"
    return cycles


def _listed(cycles: Sequence[Sequence[int]]) -> str:
    return ", ".join(str(len(cycle)) for cycle in cycles[:12]) + (", ..." if len(cycles) > 12 else "")


def _alike(cycles: Sequence[Sequence[int]], difference: _Difference, alike: float) -> bool:
    """Whether all cycles have as many frames, at the same distances from their first ones."""
    if len({len(cycle) for cycle in cycles}) > 1:
        return False
    for cycle in cycles[1:]:
        for here, there in zip(cycles[0][1:], cycle[1:], strict=True):
            one, other = difference(cycles[0][0], here), difference(cycle[0], there)
            if one is not None and other is not None and abs(one - other) > alike:
                return False
    return True


def _without_broken(listed: Sequence[Frame], found: Sequence[Group]) -> list[Group]:
    """Add the files that cannot be read, and refuse the brackets that they tear."""
    groups = list(found)
    for place, frame in enumerate(listed):
        if not frame.error:
            continue
        groups.append(Group((frame,), "refused", "name", frame.error))
        before = next((x.path for x in reversed(listed[:place]) if not x.error), None)
        after = next((x.path for x in listed[place:] if not x.error), None)
        for k, group in enumerate(found):
            members = {member.path for member in group.frames}
            if group.verdict == "bracket" and before in members and after in members:
                reason = f"{frame.path.name}, which lies between its frames, cannot be read"
                groups[k] = replace(groups[k], verdict="refused", reason=reason)
    return groups


# ---- exposures -----------------------------------------------------------------------------------------------------


def _measured(one: Frame, other: Frame) -> float | None:
    return None if one.tones is None or other.tones is None else stops_between(one.tones, other.tones)


def _conflict(frames: Sequence[Frame], stated: Sequence[float] | None) -> str | None:
    tones = [frame.tones for frame in frames if frame.tones is not None]
    if stated is None or len(tones) < len(frames):
        return None
    return contradiction(stated, tones, [frame.path.name for frame in frames])


def _untimed(frames: Sequence[Frame]) -> str:
    """That some of the frames, but not all, state an exposure time."""
    without = [frame.path.name for frame in frames if frame.exposure.time is None]
    if len(without) == len(frames):
        return ""
    return f"{len(without)} of {len(frames)} files state no exposure time (such as {without[0]}); brightness counts"


def _contradicts(conflict: str) -> str:
    return f"the exposures in the files contradict the brightness of the frames ({conflict}); brightness counts"


def _stops(frames: Sequence[Frame], stated: Sequence[float] | None) -> tuple[float | None, ...]:
    if stated is not None:
        return tuple(math.log2(time / stated[0]) for time in stated)
    return (0.0, *(_measured(frames[0], frame) for frame in frames[1:]))
