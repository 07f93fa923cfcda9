"""Training: one engine for every system, configurations in files, checkpoints that survive everything."""

from hdrops.train.config import (
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    Section,
    TrainConfig,
    dump_config,
    load_config,
    read_config,
)
from hdrops.train.engine import Outcome, Progress, train
from hdrops.train.errors import TrainingError
from hdrops.train.system import Batch, Data, Samples, System, Terms, Validation

__all__ = [
    "Batch",
    "Data",
    "OptimizerConfig",
    "Outcome",
    "Progress",
    "RunConfig",
    "Samples",
    "ScheduleConfig",
    "Section",
    "System",
    "Terms",
    "TrainConfig",
    "TrainingError",
    "Validation",
    "dump_config",
    "load_config",
    "read_config",
    "train",
]
