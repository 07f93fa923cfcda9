"""``hdrops convert``."""

from __future__ import annotations

import importlib
from pathlib import Path

from hdrops_cli.report import say, working


def run(network: str, checkpoint: Path, out: Path) -> None:
    from hdrops.io import InputError

    published = getattr(importlib.import_module("hdrops.convert"), network)
    try:
        with working(f"reading {checkpoint}"):
            model = published(checkpoint)
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"cannot read {checkpoint}: {error.strerror}") from error
    try:
        model.save_pretrained(out)
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    say(f"{network}, {count:,} parameters, {parameters[0].shape[1]} channels → {out}")
