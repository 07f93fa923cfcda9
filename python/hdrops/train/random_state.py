"""The state of every global random generator, as tensors."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from hdrops.train.sampler import seed_of


def seed_everything(seed: int, rank: int) -> None:
    """Seed the generators of Python, NumPy and torch (all devices), differently in every process."""
    random.seed(seed_of(seed, rank, 0))
    np.random.seed(seed_of(seed, rank, 1) % 2**32)
    torch.manual_seed(seed_of(seed, rank, 2))


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the generators of Python, NumPy, torch's CPU and, if that is the device, this GPU."""
    _, words, gauss = random.getstate()
    _, numpy_words, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": torch.tensor(words),
        # The second of two normal deviates that are drawn at a time; NaN if it is not pending.
        "python_gauss": torch.tensor(np.nan if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*map(int, numpy_words), position, has_gauss]),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Undo all that was drawn since :func:`random_state`; a GPU that had no part in it keeps its state."""
    gauss = float(state["python_gauss"])
    random.setstate((3, tuple(state["python"].tolist()), None if np.isnan(gauss) else gauss))
    *words, position, has_gauss = state["numpy"].tolist()
    cached = float(state["numpy_gauss"])
    np.random.set_state(("MT19937", np.array(words, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
