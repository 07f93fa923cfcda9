"""The training engine: from a system and a configuration to weights, through any number of interruptions."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import fcntl
import functools
import json
import math
import multiprocessing
import os
import pathlib
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, default_collate

import hdrops
from hdrops.io.errors import InputError, out_of_memory
from hdrops.io.writing import write_file, write_image
from hdrops.train.checkpoint import (
    Checkpoint,
    Checkpoints,
    load_module,
    load_optimizer,
    on_cpu,
    optimizer_tensors,
)
from hdrops.train.config import (
    C,
    OptimizerConfig,
    config_hash,
    differing_keys,
    dump_run_config,
    is_run_config,
    read_config,
)
from hdrops.train.errors import TrainingError
from hdrops.train.logs import Board, Table
from hdrops.train.memory import kept_memory, return_memory
from hdrops.train.processes import Processes, joined_processes
from hdrops.train.random_state import random_state, seed_everything, set_random_state
from hdrops.train.sampler import Batches, Key
from hdrops.train.system import Batch, Samples, System

CONFIG = "config.toml"
MODEL = "model"
_DATA = "data.json"
_CHECKPOINTS, _PICTURES, _BOARD = "checkpoints", "pictures", "tensorboard"
_TABLES = ("metrics.csv", "validation.csv", "timing.csv")
_LOCK = ".lock"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Against numbers that are not finite.
_CALMER = "lower optimizer.lr or clip gradients (clip=1), with --accept-changes"

Warn = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: number of those that are done.
        steps: number in all.
        began: those that were done when it was resumed; 0 for a new run.
        loss: of the last step.
        lr: its learning rate.
        images_per_second: of all processes, over the last steps, without validations and checkpoints.
        seconds_left: at the speed since the start, all included.
        validation: the metrics of the last validation.
        logged: whether the step has a row in the log.
    """

    step: int
    steps: int
    began: int
    loss: float
    lr: float
    images_per_second: float
    seconds_left: float
    validation: Mapping[str, float]
    logged: bool


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: updates that are done.
        model: the folder of the trained weights; None if the run was interrupted.
        checkpoint: the last one.
        best: the best one by validation, if there is one.
        validation: the metrics of the last validation.
        signal: what interrupted the run.
        began: the step that it was resumed from; 0 for a new run.
    """

    step: int
    model: pathlib.Path | None
    checkpoint: pathlib.Path
    best: pathlib.Path | None
    validation: Mapping[str, float]
    signal: signal.Signals | None
    began: int


def train(
    system: System[C],
    config: C,
    out: str | os.PathLike[str],
    *,
    fresh: bool = False,
    force: bool = False,
    accept_changes: bool = False,
    progress: Callable[[Progress], None] | None = None,
    warn: Warn = warnings.warn,
) -> Outcome:
    """Train a system, or go on with a run that was interrupted.

    A folder that holds a run of the same configuration resumes it from its last checkpoint. On the same machine and
    number of processes and threads the result, logs included, is then that of a run without interruption, to the bit;
    what differs is warned of. SIGINT and SIGTERM end the run after the step that is under way, with a checkpoint; a
    second SIGINT at once.

    Under torchrun all processes train together: each computes its share of every batch.

    Args:
        system: what to train.
        config: its configuration.
        out: folder of the run, which is created.
        fresh: never resume: a folder that holds a run is an error,
        force: unless that run may be removed.
        accept_changes: resume a run of another configuration with this one. Without, ``run`` and ``skip_non_finite``
            may differ, and ``steps`` unless the schedule depends on their number.
        progress: called after every step, in process 0.
        warn: called with lines to show, in process 0.

    Returns:
        How it ended. The weights are in ``out/model``: the moving average if ``config.ema`` is on.

    Raises:
        InputError: a folder or configuration that does not fit, data that cannot be read or is empty.
        TrainingError: a loss or weights that are not finite, or memory that does not suffice; the checkpoints are
            intact.
    """
    folder = pathlib.Path(out)
    if force and not fresh:
        raise InputError("force removes a run for a fresh one; ask for both")
    # Settings first: for them torch imports modules that, once there is a process group, hold it until the interpreter
    # ends, and its threads with it, which then abort the process now and then.
    with _computing(config), joined_processes(config.run.device) as processes, kept_memory():
        quiet = warn if processes.first else _silent
        with contextlib.ExitStack() as stack:
            if processes.first:
                stack.enter_context(_opened(folder, system, config, fresh, force, accept_changes))
            processes.anywhere(False)  # the others wait until the folder is ready
            remove = fresh and force
            run = _Run(system, config, folder, processes, progress if processes.first else None, quiet, remove)
            stack.callback(run.close)
            return run.finish(stack.enter_context(_signals(processes.count == 1)))


def _silent(line: str) -> None:
    pass


# ---- the folder ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(
    folder: pathlib.Path, system: System[C], config: C, fresh: bool, force: bool, accept: bool
) -> Iterator[None]:
    """Make sure that the folder is this run's, and no other process's meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / _LOCK, "a")  # noqa: SIM115  (closed below: it would release the lock)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}; give another folder") from error
    with lock:
        try:
            # Of this process alone: workers that outlive it do not hold it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is training in {folder}; wait for it or give another folder") from error
        _prepare(folder, system, config, fresh, force, accept)
        yield


def _prepare(folder: pathlib.Path, system: System[C], config: C, fresh: bool, force: bool, accept: bool) -> None:
    written = folder / CONFIG
    if not is_run_config(system.config, written):
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if foreign:
            raise InputError(f"{folder} holds files of another origin, such as {foreign[0]}; give an empty folder")
        return
    if (fresh and force) or not Checkpoints(folder / _CHECKPOINTS).steps():
        return
    if fresh:
        raise InputError(f"{folder} holds a run; give another folder, or add --force to remove it")
    differing = differing_keys(read_config(system.config, written), config)
    if differing and not accept:
        keys = ", ".join(f"{key} ({was!r} there, {now!r} here)" for key, (was, now) in differing.items())
        raise InputError(
            f"{folder} holds a run of another configuration: {keys}; give another folder, --config {written} to go on "
            "with it, --accept-changes to go on with the present one, or --fresh --force to remove it"
        )


def _remove_run(folder: pathlib.Path) -> None:
    """All of a run but its configuration, by which the folder is known as that of one."""
    for name in (_CHECKPOINTS, _PICTURES, _BOARD, MODEL, _DATA, *_TABLES):
        path = folder / name
        # Of a link, what it names is not ours to remove.
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


# ---- the process ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _computing(config: C) -> Iterator[None]:
    """torch's settings for the run, undone afterwards."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # its attribute is not in the types of torch
    fill = memory.fill_uninitialized_memory
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS wants it for deterministic results
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        memory.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _warnings_told(warn: Warn) -> Iterator[None]:
    """Say what is warned of meanwhile in lines of our own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            told = [str(warning.message) for warning in caught]
    for line in told:
        warn(line)


@contextlib.contextmanager
def _signals(alone: bool) -> Iterator[Callable[[], signal.Signals | None]]:
    """Note SIGINT and SIGTERM instead of obeying them; of several processes each may get both, several times."""
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        if alone and noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        noted.append(signal.Signals(number))

    before: dict[signal.Signals, Any] = {}
    try:
        for number in _SIGNALS:
            # Only the main thread can; in another the run is not interrupted so.
            with contextlib.suppress(ValueError):
                before[number] = signal.signal(number, note)
        yield lambda: noted[0] if noted else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclasses.dataclass(frozen=True)
class _Unreadable:
    """In place of samples that cannot be read."""

    message: str


class _Guarded(Dataset[Any]):
    """Samples, or the one line that says why not: an exception would come from a worker with its traceback."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, key: Key) -> Mapping[str, Tensor] | _Unreadable:
        try:
            return self.samples[key]
        except InputError as error:
            return _Unreadable(str(error))


def _collated(samples: list[Mapping[str, Tensor] | _Unreadable]) -> Any:
    for sample in samples:
        if isinstance(sample, _Unreadable):
            return sample
    return default_collate(samples)


def _worker(closing: Any, number: int) -> None:
    """Signals may go to all processes of a group, and those that train end after their step: workers outlive them.

    Args:
        closing: a byte of shared memory that is 1 once the run has ended: then SIGTERM ends the worker.
        number: of the worker.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if closing.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    return_memory()  # pictures come in many sizes


# ---- the run -------------------------------------------------------------------------------------------------------


class _Optimizer:
    """An optimiser with the names of its parameters."""

    def __init__(self, prefix: str, config: OptimizerConfig, model: nn.Module) -> None:
        inside = prefix and f"{prefix}."
        named = [(n, p) for n, p in model.named_parameters() if n.startswith(inside) and p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.lr = config.lr
        kind = {"adam": optim.Adam, "adamw": optim.AdamW}[config.kind]
        self.torch: optim.Optimizer = kind(
            self.parameters,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
        )


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        system: System[C],
        config: C,
        folder: pathlib.Path,
        processes: Processes,
        progress: Callable[[Progress], None] | None,
        warn: Warn,
        remove: bool,
    ) -> None:
        """``remove`` what the folder holds of a run, once all that this one needs is known to be there."""
        self.system, self.config, self.folder, self.processes = system, config, folder, processes
        self.progress, self.warn = progress, warn
        self.device = processes.device
        self.checkpoints = Checkpoints(folder / _CHECKPOINTS)
        self.window: dict[str, float] = {}  # sums over the steps since the last row of the log
        self.counted = 0  # steps in them
        self.skipped = 0
        self.best: dict[str, float] = {}
        self.validation: dict[str, float] = {}
        self.seconds, self.timed = 0.0, 0  # of the steps since the last row
        self.durations = collections.deque[float](maxlen=50)  # of the last steps
        self.started = time.perf_counter()

        share = processes.count * config.accumulate
        if config.batch % share:
            raise InputError(
                f"batch {config.batch} cannot be divided among {processes.count} processes in {config.accumulate} "
                f"parts each; make it a multiple of {share}"
            )
        with _warnings_told(warn):
            self.data = system.samples(config)
        self.samples = self.data.training
        if len(self.samples) == 0:
            raise InputError("there are no training samples; look at the keys of data")
        seed_everything(config.seed, 0)  # the same weights in every process
        with self._memory_checked("the network", "take a smaller one"):
            self.model = system.model(config).to(self.device)
            processes.take_from_first([*self.model.parameters(), *self.model.buffers()])
            seed_everything(config.seed, processes.rank)
            optimizers = system.optimizers(config)
            self.optimizers = {prefix: _Optimizer(prefix, c, self.model) for prefix, c in optimizers.items()}
            self.average = copy.deepcopy(self.model).requires_grad_(False).eval() if config.ema else None
            processes.anywhere(False)  # all of them can start
            if remove and processes.first:
                _remove_run(folder)
            processes.anywhere(False)
            self.step = self.began = self._restored()
        self.batches = Batches(
            len(self.samples),
            config.batch,
            config.seed,
            processes.rank,
            processes.count,
            config.accumulate,
            self.step,
        )
        self.loader: Iterator[Any] = iter(())
        self.closing: Any = multiprocessing.RawValue("b", 0)
        self.tables: list[Table] = []
        if processes.first:  # before all other files: by it the folder is known as that of a run
            write_file(folder / CONFIG, dump_run_config(system.name, config).encode())
        self.board = Board(folder / _BOARD, self.step, config.run.tensorboard and processes.first, warn)
        if processes.first:
            write_file(folder / _DATA, (json.dumps(self._facts(), indent=1) + "\n").encode())
            self.tables = [Table(folder / name, self.step) for name in _TABLES]

    def close(self) -> None:
        self.closing.value = 1
        self.loader = iter(())
        for table in self.tables:
            table.close()
        self.board.close()

    def finish(self, stopping: Callable[[], signal.Signals | None]) -> Outcome:
        """Make the steps that are left, or those until a signal comes."""
        if self.step < self.config.steps:
            self.loader = self._loader()
        stopped: signal.Signals | None = None
        while self.step < self.config.steps and stopped is None:
            stopped = self._step(stopping)
        done = self.step == self.config.steps
        model = self.folder / MODEL
        if done:
            self._check_weights()
        if done and self.processes.first:
            with self._memory_checked(f"writing {model}"):
                self.system.export(self._trained(), model)
        self.processes.anywhere(False)  # all end together: torchrun ends the others once one has gone wrong
        return Outcome(
            self.step,
            model if done else None,
            self.checkpoints.path(self.step),
            self.checkpoints.path(int(self.best["step"])) if self.best else None,
            self.validation,
            stopped if not done else None,
            self.began,
        )

    def _trained(self) -> nn.Module:
        return self.model if self.average is None else self.average

    # ---- one step ----

    def _loader(self) -> Iterator[Any]:
        run = self.config.run
        loader = DataLoader(
            _Guarded(self.samples),
            batch_sampler=self.batches,
            collate_fn=_collated,
            num_workers=run.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=functools.partial(_worker, self.closing),
            prefetch_factor=4 if run.workers else None,
            generator=torch.Generator(),  # else it draws from the global one, whenever it starts
        )
        return iter(loader)

    def _step(self, stopping: Callable[[], signal.Signals | None]) -> signal.Signals | None:
        """One update and what is due after it; the signal that a process got, if one did: then all stop."""
        config, number = self.config, self.step + 1
        started = time.perf_counter()
        factor = config.schedule.at(self.step, config.steps)
        sizes = f"lower {' or '.join(self.system.size_keys)}, or raise accumulate from {config.accumulate}"
        with self._memory_checked(f"step {number}", f"{sizes}, with --accept-changes"):
            batches = [self._next(number) for _ in range(config.accumulate)]
            values, stop = self._updated(batches, factor, number, stopping)
        self.step = number
        self.durations.append(time.perf_counter() - started)
        self.seconds += self.durations[-1]
        self.timed += 1
        if values is not None:
            self.counted += 1
            for name, value in values.items():
                self.window[name] = self.window.get(name, 0.0) + value
        last = number == config.steps
        lr = factor * next(iter(self.optimizers.values())).lr
        logged = last or number % config.log_every == 0
        if logged:
            self._log(lr)
        validated = (last or number % config.validate_every == 0) and self._validated()
        if last or stop is not None or validated or number % config.run.checkpoint_every == 0:
            self._save()
        if self.progress is not None:
            speed = len(self.durations) * config.batch / sum(self.durations)
            left = (time.perf_counter() - self.started) / (number - self.began) * (config.steps - number)
            loss = math.nan if values is None else next(iter(values.values()))
            self.progress(Progress(number, config.steps, self.began, loss, lr, speed, left, self.validation, logged))
        return stop

    def _next(self, number: int) -> Batch:
        try:
            batch = next(self.loader)
        except RuntimeError as error:
            # Thus torch says that a worker has ended; an exception in one begins with "Caught".
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            cause = str(error).splitlines()[0]
            raise TrainingError(
                f"at step {number}: {cause}; it may have run out of memory: lower run.workers. {self._how_to_resume()}"
            ) from error
        if isinstance(batch, _Unreadable):
            raise InputError(f"{batch.message} (at step {number}; {self._how_to_resume()})")
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def _updated(
        self, batches: list[Batch], factor: float, number: int, stopping: Callable[[], signal.Signals | None]
    ) -> tuple[dict[str, float] | None, signal.Signals | None]:
        """Update the weights: the terms of the loss, None if they were left as they are; and the signal to stop by."""
        self.model.train()
        values: dict[str, float] = {}
        skipped = False
        stop: signal.Signals | None = None
        phases = [self.system.losses(self.model, batch, self.config) for batch in batches]
        precision = _PRECISIONS[self.config.precision]
        while True:
            sums: dict[str, Tensor] = {}
            optimizer: _Optimizer | None = None
            yielded: list[tuple[str, list[str]] | None] = []
            # A forward pass may change buffers, such as the statistics of a normalisation.
            before = [buffer.clone() for buffer in self.model.buffers()] if self.config.skip_non_finite else []
            # All parts of a batch are at the same optimiser; the graph of only one is alive.
            for phase in phases:
                with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
                    found = next(phase, None)
                yielded.append(found and (found[0], [*found[1]]))
                if yielded[-1] != yielded[0]:
                    raise ValueError(
                        f"losses of {self.system.name} must yield the same optimisers and terms for every part of a "
                        f"batch, got {yielded[0]} and {yielded[-1]}"
                    )
                if found is None:
                    continue
                prefix, terms = found
                if optimizer is None:
                    optimizer = self.optimizers[prefix]
                    optimizer.torch.zero_grad()
                scaled = {name: term.float() / len(batches) for name, term in terms.items()}
                loss = torch.stack([*scaled.values()]).sum()
                loss.backward(inputs=optimizer.parameters)
                label = f"/{prefix}" if prefix else ""
                named = {f"loss{label}": loss} | (scaled if len(scaled) > 1 else {})
                for name, term in named.items():
                    sums[name] = sums.get(name, torch.zeros(())) + term.detach()
            if optimizer is None:
                break
            got = stopping()
            flags = [float(got == s) for s in _SIGNALS]  # all processes must know of the same one
            numbers = self.processes.average(optimizer.parameters, [*sums.values(), *flags])
            seen = [s for s, share in zip(_SIGNALS, numbers[len(sums) :], strict=True) if share > 0]
            stop = stop or (seen[0] if seen else None)
            found_values = dict(zip(sums, numbers[: len(sums)], strict=True))
            norm = nn.utils.clip_grad_norm_(optimizer.parameters, self.config.clip or math.inf)
            found_values[f"gradient_norm{label}"] = float(norm)
            if not all(math.isfinite(x) for x in found_values.values()):
                self._refuse(found_values, number)
                for buffer, value in zip(self.model.buffers(), before, strict=True):
                    buffer.copy_(value)
                skipped = True
                continue
            for group in optimizer.torch.param_groups:
                group["lr"] = optimizer.lr * factor
            optimizer.torch.step()
            values |= found_values
        if not values and not skipped:
            raise ValueError(f"losses of {self.system.name} must yield an optimiser and terms, got none")
        self.processes.take_from_first([*self.model.buffers()])
        if self.average is not None and not skipped:
            self._move_average(number)
        return None if skipped else values, stop

    def _refuse(self, values: Mapping[str, float], number: int) -> None:
        """An update that would ruin the weights: pass over it while that is allowed."""
        self.skipped += 1
        found = ", ".join(f"{name} {value:g}" for name, value in values.items())
        if self.skipped <= self.config.skip_non_finite:
            self.warn(f"step {number} is left out, for it is not finite: {found}")
            return
        raise TrainingError(
            f"the loss is not finite at step {number} ({found}), and would be so again: leave such steps out "
            f"(skip_non_finite={self.skipped}), or {_CALMER}. {self._where_it_stands()}"
        )

    def _check_weights(self) -> None:
        """Weights that an update has ruined must not be kept; they are the same in every process."""
        for module in (self.model, self.average):
            for name, tensor in {} if module is None else module.state_dict().items():
                if not bool(tensor.isfinite().all()):
                    raise TrainingError(
                        f"{name} of the network is not finite after step {self.step}, and would be so again: "
                        f"{_CALMER}. {self._where_it_stands()}"
                    )

    @torch.no_grad()
    def _move_average(self, number: int) -> None:
        """EMA of the weights; at first of fewer steps, so that the initial ones are forgotten."""
        assert self.average is not None
        decay = min(self.config.ema, (1 + number) / (10 + number))
        torch._foreach_lerp_([*self.average.parameters()], [*self.model.parameters()], 1 - decay)
        for mean, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mean.copy_(buffer)

    def _where_it_stands(self) -> str:
        steps = self.checkpoints.steps()
        return f"The last checkpoint is {self.checkpoints.path(steps[-1])}" if steps else "There is no checkpoint yet"

    def _how_to_resume(self) -> str:
        return self._where_it_stands() + ("; the same command resumes from it" if self.checkpoints.steps() else "")

    @contextlib.contextmanager
    def _memory_checked(self, what: str, remedy: str = "end other programs") -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, TrainingError) or not out_of_memory(error):
                raise
            raise TrainingError(
                f"memory does not suffice for {what} on {self.device}; {remedy}. {self._where_it_stands()}"
            ) from error

    # ---- what is due after a step ----

    def _log(self, lr: float) -> None:
        row = {"epoch": self.batches.epoch(self.step)}
        row |= {name: total / self.counted for name, total in self.window.items()}
        row["lr"] = lr
        timing = {"images_per_second": self.timed * self.config.batch / self.seconds, "seconds": self.seconds}
        if self.device.type == "cuda":
            timing["megabytes"] = torch.cuda.max_memory_allocated(self.device) / 1e6
        if self.tables:
            if self.counted:
                self.tables[0].write(self.step, row)
            self.tables[2].write(self.step, timing)
        self.board.scalars("training", self.step, row | timing)
        self.window, self.counted, self.seconds, self.timed = {}, 0, 0.0, 0

    def _validated(self) -> bool:
        """Validate in process 0; whether it was the best so far."""
        if self.system.validate is None or self.data.held_out is None:
            return False
        improved = False
        if self.processes.first:
            number = -(-self.step // self.config.validate_every)
            every = self.config.picture_every
            model = self._trained().eval()
            # What it draws must not change the training.
            before = random_state(self.device)
            keys = " or ".join(self.system.validation_keys)
            remedy = [f"lower {keys}, with --accept-changes"] if keys else []
            with torch.inference_mode(), self._memory_checked(f"the validation after step {self.step}", *remedy):
                found = self.system.validate(
                    model, self.data.held_out, self.config, self.device, bool(every) and number % every == 0
                )
            set_random_state(before, self.device)
            self.validation = dict(found.metrics)
            self.tables[1].write(self.step, found.metrics)
            self.board.scalars("validation", self.step, found.metrics)
            if found.picture is not None:
                (self.folder / _PICTURES).mkdir(exist_ok=True)
                write_image(self.folder / _PICTURES / f"step-{self.step:06d}.png", found.picture)
                self.board.picture(self.step, found.picture)
            name, sense = self.system.best
            value = found.metrics[name]
            sign = 1 if sense == "highest" else -1
            improved = math.isfinite(value) and (not self.best or sign * value > sign * self.best["value"])
            if improved:
                self.best = {"step": self.step, "value": value}
        return self.processes.anywhere(improved)

    # ---- checkpoints ----

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"samples": len(self.samples), **self.data.facts}
        return facts

    def _save(self) -> None:
        self._check_weights()
        random = self.processes.gather(random_state(self.device))
        if not self.processes.first or self.step in self.checkpoints.steps():
            return
        for table in self.tables:
            table.sync()  # rows up to this step must be there if its checkpoint is
        state = {
            "system": self.system.name,
            "config": config_hash(self.config),
            "processes": self.processes.count,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "data": self._facts(),
            "window": {"steps": self.counted, "sums": self.window},
            "skipped": self.skipped,
            "validation": self.validation,
            "best": self.best,
            "versions": {"hdrops": hdrops.__version__, "torch": torch.__version__},
        }
        best = int(self.best["step"]) if self.best else None
        with self._memory_checked(f"the checkpoint of step {self.step}"):
            optimizers: dict[str, Tensor] = {}
            for optimizer in self.optimizers.values():
                optimizers |= optimizer_tensors(optimizer.torch, optimizer.names)
            tensors = {"model": on_cpu(self.model.state_dict()), "optimizer": on_cpu(optimizers), "rng": on_cpu(random)}
            if self.average is not None:
                tensors["ema"] = on_cpu(self.average.state_dict())
            self.checkpoints.save(Checkpoint(self.step, tensors, state), self.config.run.keep, best)

    def _restored(self) -> int:
        """Take everything from the last checkpoint: the step that it is of, 0 if there is none."""
        checkpoint = None
        for turn in (self.processes.first, not self.processes.first):  # the first one tidies up
            if turn:
                checkpoint = self.checkpoints.load(self.config.run.keep, self.warn)
            self.processes.anywhere(False)
        if self.processes.anywhere(checkpoint is None):
            if checkpoint is not None or self.checkpoints.steps():
                raise InputError(
                    f"some processes do not find the checkpoints in {self.folder}; all must share that folder"
                )
            return 0
        assert checkpoint is not None
        state, tensors = checkpoint.state, checkpoint.tensors
        step = checkpoint.step
        if state["system"] != self.system.name:
            raise InputError(
                f"{self.folder} holds a run of {state['system']}, not of {self.system.name}; give another folder"
            )
        if step > self.config.steps:
            raise InputError(f"the run is at step {step} already; steps must be at least that, got {self.config.steps}")
        changed = state["config"] != config_hash(self.config)
        if changed:
            self.warn(f"the configuration differs from that of step {step}; the run goes on with the present one")
        differing = [key for key, value in self._facts().items() if state["data"].get(key) != value]
        if differing:
            self.warn(
                f"the data are not those of step {step} (see {', '.join(differing)} in {_DATA}): the run goes on, but "
                "not as it would have"
            )
        load_module(self.model, tensors["model"])
        if self.average is not None:
            load_module(self.average, tensors.get("ema", tensors["model"]))  # it may not have been on before
        for optimizer in self.optimizers.values():
            own = {k: v for k, v in tensors["optimizer"].items() if k.rpartition("/")[0] in set(optimizer.names)}
            load_optimizer(optimizer.torch, optimizer.names, own)
        rank = self.processes.rank
        own = {k.partition("/")[2]: v for k, v in tensors["rng"].items() if k.startswith(f"{rank}/")}
        threads = torch.get_num_threads()
        was = (state["processes"], state["device"], state["threads"], state["versions"]["torch"])
        now = (self.processes.count, self.device.type, threads, torch.__version__)
        if was != now:
            form = "{} processes on {} with {} threads and torch {}"
            self.warn(
                f"step {step} was made by {form.format(*was)}, now it is {form.format(*now)}: the run goes on, but not "
                "to the bit as it would have"
            )
        if own:
            set_random_state(own, self.device)
        if not changed:  # a row of the log is of one configuration
            self.window, self.counted = dict(state["window"]["sums"]), state["window"]["steps"]
        if not changed and not differing:  # otherwise later validations may be of something else
            self.best = dict(state["best"])
        self.skipped, self.validation = state["skipped"], dict(state["validation"])
        return step
