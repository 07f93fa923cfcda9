"""The error of a training that cannot go on."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A run that stopped for what happened in it. The message is one line: what, when, and how to go on."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
