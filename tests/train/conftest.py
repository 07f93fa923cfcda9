"""Training the toy in this process."""

import functools
import warnings

import pytest

pytest.importorskip("pydantic", reason="training needs pydantic")

import toy

from hdrops.train import load_config, train


@pytest.fixture
def run(tmp_path):
    """Train: run("steps=3", ..., system=, out=, told=), where ``told`` is a list that takes the warnings."""

    def start(*settings, system=toy.TOY, out="run", told=None, progress=None, **options):
        config = load_config(system.config, system.presets, settings=settings)
        say = functools.partial(warnings.warn, stacklevel=2) if told is None else told.append
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return train(system, config, tmp_path / out, progress=progress, warn=say, **options)

    return start


@pytest.fixture
def results(tmp_path):
    """What a run has left that must not depend on interruptions: weights, the last state, logs."""

    def read(out="run"):
        folder = tmp_path / out
        last = max((folder / "checkpoints").glob("step-*"))
        files = [*last.iterdir(), folder / "model" / "model.safetensors", folder / "metrics.csv"]
        files += [path for path in [folder / "validation.csv"] if path.exists()]
        return {path.name if path.parent != last else f"last/{path.name}": path.read_bytes() for path in files}

    return read
