"""Configuration of a training run: what may stand in it, where it comes from, and errors that name the key."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import pathlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hdrops.io.errors import InputError

_LONGEST_VALUE = 60  # characters of a refused value in an error
_MARK = "# hdrops train"


class Section(BaseModel):
    """A table of keys: unknown ones are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OptimizerConfig(Section):
    """The optimiser of one group of parameters."""

    kind: Literal["adam", "adamw"] = Field(default="adam", description="adam, or adamw with decoupled weight decay")
    lr: float = Field(default=1e-4, gt=0, description="learning rate, before the schedule's factor")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of gradients")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean of squared gradients")
    eps: float = Field(default=1e-8, gt=0, description="added to the root of the latter")
    weight_decay: float = Field(default=0.0, ge=0)


class ScheduleConfig(Section):
    """Factor of the learning rate over the steps."""

    kind: Literal["constant", "cosine", "step"] = Field(
        default="constant",
        description="constant, cosine (falls to floor at the end) or step (falls every so often)",
    )
    warmup: int = Field(default=0, ge=0, description="steps over which the factor rises in a line to 1 first")
    floor: float = Field(default=0.0, ge=0, le=1, description="cosine: the factor at the end")
    every: int = Field(default=10_000, ge=1, description="step: steps between two falls")
    factor: float = Field(default=0.5, gt=0, le=1, description="step: what the rate is multiplied by")

    def at(self, step: int, steps: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``steps``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "cosine":
            progress = (step - self.warmup) / max(1, steps - self.warmup)
            return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind == "step":
            return float(self.factor ** ((step - self.warmup) // self.every))
        return 1.0


class RunConfig(Section):
    """Where and how the run is done; these keys may differ when it is resumed."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU where torch finds one")
    workers: int = Field(default=2, ge=0, le=256, description="processes that prepare samples, for each that trains")
    threads: int = Field(default=0, ge=0, le=1024, description="of torch on the CPU; 0 leaves the choice to torch")
    checkpoint_every: int = Field(default=500, ge=1, description="steps")
    keep: int = Field(default=3, ge=1, description="checkpoints that are kept, besides the best")
    tensorboard: bool = Field(default=True, description="write TensorBoard logs as well")


class TrainConfig(Section):
    """What the training of every system has; a system adds its own keys."""

    seed: int = Field(default=0, ge=0, lt=2**63, description="of initial weights, samples and their order")
    steps: int = Field(default=20_000, ge=1, description="updates of the weights")
    batch: int = Field(default=32, ge=1, description="samples of an update, over all processes")
    accumulate: int = Field(
        default=1, ge=1, description="parts that a batch is computed in, one after the other, to save memory"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 computes by torch's autocast; weights stay float32"
    )
    clip: float = Field(default=0.0, ge=0, description="longest norm of the gradient; 0 is off")
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of the moving average of the weights; 0 is off")
    skip_non_finite: int = Field(
        default=0, ge=0, description="updates that may be left out since their loss is NaN or infinite"
    )
    deterministic: bool = Field(
        default=True,
        description="algorithms that give the same bits every time wherever torch has one; where not, torch warns",
    )
    log_every: int = Field(default=50, ge=1, description="steps between two rows of metrics.csv")
    validate_every: int = Field(default=500, ge=1, description="steps; the last one is always validated")
    picture_every: int = Field(default=4, ge=0, description="validations between two pictures; 0 is none")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    run: RunConfig = RunConfig()


C = TypeVar("C", bound=TrainConfig)


def load_config(
    kind: type[C],
    presets: Mapping[str, Mapping[str, Any]],
    *,
    preset: str | None = None,
    file: str | os.PathLike[str] | None = None,
    settings: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> C:
    """The configuration that several sources make, later ones before earlier: preset, file, settings, values.

    Args:
        kind: of the configuration.
        presets: nested mappings of keys, by name.
        preset: one of them.
        file: .toml or .json.
        settings: such as ``optimizer.lr=1e-3``; the value as in TOML, or a bare word.
        values: by dotted key.

    Raises:
        InputError: an unknown preset, a file that cannot be read, or keys and values that are not allowed.
    """
    merged = _defaults(kind)
    if preset is not None:
        if preset not in presets:
            raise InputError(f"unknown preset {preset!r}{_nearest(preset, presets)}; presets: {', '.join(presets)}")
        _merge(merged, presets[preset])
    if file is not None:
        _merge(merged, _read(pathlib.Path(file)))
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not all(key.strip().split(".")):
            raise InputError(f"a setting is key=value, such as optimizer.lr=1e-3; got {setting!r}")
        _merge(merged, _nested(key.strip(), _value(text.strip())))
    for key, value in (values or {}).items():
        _merge(merged, _nested(key, value))
    return _validated(kind, merged)


def read_config(kind: type[C], file: str | os.PathLike[str]) -> C:
    """The configuration that a run has written; errors as those of :func:`load_config`, which name the file."""
    merged = _defaults(kind)
    _merge(merged, _read(pathlib.Path(file)))
    try:
        return _validated(kind, merged)
    except InputError as error:
        raise InputError(f"{os.fspath(file)}: {error}") from error


def dump_run_config(system: str, config: BaseModel) -> str:
    """What a run of a system writes: :func:`dump_config` below a line that tells the file from those of others."""
    return f"{_MARK} {system}\n{dump_config(config)}"


def is_run_config(kind: type[TrainConfig], file: pathlib.Path) -> bool:
    """Whether a run has written this file: it has the line that says so, or is a complete configuration.

    Raises:
        InputError: a file that is there but cannot be read.
    """
    try:
        first = file.read_bytes().partition(b"\n")[0]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; check its permissions") from error
    if first.startswith(f"{_MARK} ".encode()):
        return True
    try:
        read_config(kind, file)
        return TrainConfig.model_fields.keys() <= _read(file).keys()
    except InputError:
        return False


def dump_config(config: BaseModel) -> str:
    """The configuration as TOML, with what each key means."""
    return "\n".join(_toml(config, ())) + "\n"


def _decides(key: str, config: TrainConfig) -> bool:
    """Whether a key has an effect on the steps that are made.

    More steps than at first change nothing of those before, unless the schedule depends on their number.
    """
    without = {"skip_non_finite"} if config.schedule.kind == "cosine" else {"skip_non_finite", "steps"}
    return not key.startswith("run.") and key not in without


def differing_keys(one: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Both values of the keys in which two configurations differ, of those that decide the steps of the second."""
    a, b = dict(_flat(one)), dict(_flat(other))
    keys = [key for key in a if _decides(key, other)]
    return {key: (a[key], b.get(key)) for key in keys if a[key] != b.get(key)}


def config_hash(config: TrainConfig) -> str:
    """Of all that decides the steps and is not at its default: a key that a later version adds changes nothing."""
    defaults = dict(_flat(type(config)()))
    deciding = {key: value for key, value in _flat(config) if _decides(key, config) and value != defaults[key]}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


# ---- sources -------------------------------------------------------------------------------------------------------


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """A table of which one key is given keeps the others as the configuration has them, not as its own type would."""
    tables = {name: field.default for name, field in kind.model_fields.items()}
    return {name: default.model_dump() for name, default in tables.items() if isinstance(default, BaseModel)}


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; give a .toml or .json file") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give a .toml or .json file") from error
    try:
        found = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no valid {path.suffix.lstrip('.').upper() or 'TOML'}: {error}; repair it"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a table of keys, got {_short(found)}")
    return found


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = into.get(key)
            into[key] = dict(inner) if isinstance(inner, Mapping) else {}
            _merge(into[key], value)
        else:
            into[key] = value


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def _value(text: str) -> Any:
    """As in TOML; what is not, is a bare word."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


# ---- errors --------------------------------------------------------------------------------------------------------


def _validated(kind: type[C], values: Mapping[str, Any]) -> C:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(_explained(kind, e) for e in error.errors(include_url=False))) from error


def _explained(kind: type[BaseModel], error: Any) -> str:
    """What pydantic found, as: the key, what was got, what is allowed."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        section = _section(kind, location[:-1])
        names = list(section.model_fields) if section is not None else []
        within = f"of {'.'.join(location[:-1])} " if len(location) > 1 else ""
        return f"unknown key {key}{_nearest_key(kind, location)}; keys {within}are {', '.join(names)}"
    if error["type"] == "missing":
        return f"{key} is missing; state it in the configuration or by --set {key}=..."
    message = str(error["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    return f"{key}: {message}, got {_short(error['input'])}" if key else message


def _section(kind: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    """The type of the table at a location."""
    for part in location:
        field = kind.model_fields.get(part)
        types = [] if field is None else [field.annotation, *get_args(field.annotation)]
        tables = [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]
        if not tables:
            return None
        kind = tables[0]
    return kind


def _leaves(kind: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[str]:
    for name in kind.model_fields:
        inner = _section(kind, [name])
        if inner is None:
            yield ".".join((*prefix, name))
        else:
            yield from _leaves(inner, (*prefix, name))


def _nearest_key(kind: type[BaseModel], location: Sequence[str]) -> str:
    """The key that was meant: one of this name elsewhere, or one that is written nearly so."""
    leaves = list(_leaves(kind))
    named = [leaf for leaf in leaves if leaf.rpartition(".")[2] == location[-1]]
    return f" (did you mean {named[0]}?)" if named else _nearest(".".join(location), leaves)


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


# ---- text ----------------------------------------------------------------------------------------------------------


def _flat(config: BaseModel, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _flat(value, (*prefix, name))
        else:
            yield ".".join((*prefix, name)), value


def _toml(config: BaseModel, prefix: tuple[str, ...]) -> Iterator[str]:
    fields = type(config).model_fields
    inner = [name for name in fields if isinstance(getattr(config, name), BaseModel)]
    for name in (name for name in fields if name not in inner):
        comment = fields[name].description
        # TOML has no null: a key without a value is left out.
        value = getattr(config, name)
        line = f"# {name} is not set" if value is None else f"{name} = {_toml_value(value)}"
        yield line if comment is None else f"{line}  # {comment}"
    for name in inner:
        yield ""
        yield f"[{'.'.join((*prefix, name))}]"
        yield from _toml(getattr(config, name), (*prefix, name))


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        # A JSON string is a TOML string, but for the one control character that JSON leaves as it is.
        return json.dumps(os.fspath(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(_toml_value(v) for v in value) + "]"
