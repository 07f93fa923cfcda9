"""The metrics that ``hdrops evaluate`` knows: one table."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

Needs = Literal["nothing", "sources", "reference"]


@dataclass(frozen=True)
class Metric:
    """One column of an evaluation.

    Attributes:
        name: on the command line and in the CSV file.
        label: in tables and reports.
        function: in ``module``.
        needs: what it measures a picture against.
        options: keyword arguments of the function: all that decide its values, those that are its defaults too.
        over: how the sources come together in one value, in words.
        higher_is_better: the direction of the metric.
        digits: after the decimal point, in tables.
        standard: whether it is computed unless ``--metrics`` says otherwise.
        fast: whether it belongs to ``--metrics fast``.
        linear: whether it is of pictures of linear light, which have a reference; else of those for display.
        module: of the function.
    """

    name: str
    label: str
    function: str
    needs: Needs
    options: Mapping[str, Any]
    over: str = ""
    higher_is_better: bool = True
    digits: int = 4
    standard: bool = True
    fast: bool = True
    linear: bool = False
    module: str = "hdrops.metrics"

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    def load(self) -> Callable[..., Any]:
        """The function, whose import takes torch."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
        return function

    @property
    def convention(self) -> str:
        """What it computes, in the words of its docstring."""
        summary = (self.load().__doc__ or "").strip().split("\n\n")[0]
        return re.sub(r":\w+:`~?([^`]+)`|``", r"\1", " ".join(summary.split()))

    @property
    def manner(self) -> str:
        """How it is computed here, in words: colour, range, sources, and what else the options say."""
        colour = _WORDS["color", self.options.get("color", "grey")]  # MEF-SSIM has no choice but grey
        span = [] if self.needs == "reference" else ["values on 0 to 255"]
        rest = [
            _WORDS[key, value] if (key, value) in _WORDS else _NUMBERS[key].format(value)
            for key, value in self.options.items()
            if key != "color"
        ]
        return "; ".join([colour, *span, *rest, *([self.over] if self.over else [])])


_WORDS = {
    ("color", "mean"): "each channel, then their mean",
    ("color", "grey"): "the grey image",
    ("color", "rgb"): "over all channels",
    ("convention", "mefb"): "as the toolbox MEFB computes it",
    ("convention", "lt"): "as the toolbox LT computes it",
    ("convention", "paper"): "as the paper defines it",
    ("sharpness", "s3"): "spectral and spatial sharpness together",
    ("pooling", "top_floor"): "mean of the sharpest hundredth of the pixels, rounded down",
    ("zero_ends", False): "Hann window without zeros at its ends, as MATLAB's hanning",
    ("feature", "edge"): "edges as features",
    ("flat_pairs", 1): "two flat windows score 1",
    ("identical", "published"): "equal windows found as by the published code",
    ("border", "valid"): "windows that lie inside",
    ("domain", "linear"): "values as they are",
    ("domain", "mu"): "values by the μ-law",
    ("domain", "pq"): "values by PQ",
    ("domain", "pu21"): "values by PU21",
    ("normalize", "none"): "not normalised",
    ("normalize", "reference"): "divided by the largest value of the reference",
}
_NUMBERS = {"window": "windows of {0} x {0} pixels", "sigma": "Gaussian of sigma {:g}", "data_range": "range {:g}"}


def _options(**options: Any) -> Mapping[str, Any]:
    return MappingProxyType(options)


_CHANNELS = _options(color="mean")
_GREY = _options(color="grey")
_MEFB = _options(color="mean", convention="mefb")
_LT = _options(color="mean", convention="lt")
_PAPER = _options(color="mean", convention="paper")
_WINDOW = _options(window=11, sigma=1.5, border="valid")
_FMI = _options(feature="edge", window=3, flat_pairs=1, identical="published", color="mean")
_S3 = _options(sharpness="s3", pooling="top_floor", zero_ends=False, color="grey")
_MEAN, _SUM, _BY_EDGES = (
    "mean over the sources",
    "sum over the sources",
    "sources weighted by the strength of their edges",
)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("ag", "AG", "average_gradient", "nothing", _CHANNELS),
        Metric("ei", "EI", "edge_intensity", "nothing", _CHANNELS, digits=3),
        Metric("sf", "SF", "spatial_frequency", "nothing", _MEFB, digits=3),
        Metric("en", "EN", "entropy", "nothing", _CHANNELS),
        Metric("sd", "SD", "standard_deviation", "nothing", _CHANNELS, digits=3),
        Metric("fmi", "FMI", "fmi", "sources", _FMI, over=_MEAN, fast=False),
        Metric("lpc_si", "LPC-SI", "lpc_si", "nothing", _GREY, fast=False),
        Metric("s3", "S3", "s3", "nothing", _S3),
        Metric("piqe", "PIQE", "piqe", "nothing", _GREY, higher_is_better=False, digits=3),
        Metric("ms_ssim_sources", "MS-SSIM", "ms_ssim_sources", "sources", _options(**_GREY, **_WINDOW), over=_MEAN),
        Metric(
            "mef_ssim",
            "MEF-SSIM",
            "mef_ssim",
            "sources",
            _WINDOW,
            over="one patch made of all sources",
            module="hdrops",
        ),
        Metric("qabf", "Qabf", "qabf", "sources", _MEFB, over=_BY_EDGES),
        Metric("viff", "VIFF", "viff", "sources", _CHANNELS, over="the source of least gain at each place", fast=False),
        *(
            Metric(name, label, function, "sources", options, over, higher_is_better=better, standard=False, fast=False)
            for name, label, function, better, options, over in (
                ("ce", "CE", "cross_entropy", False, _CHANNELS, _MEAN),
                ("mi", "MI", "mutual_information", True, _LT, _SUM),
                ("nmi", "NMI", "normalized_mutual_information", True, _CHANNELS, _SUM),
                ("te", "TE", "tsallis_entropy", True, _MEFB, _SUM),
                ("qncie", "QNCIE", "qncie", True, _CHANNELS, "all sources and the result in one matrix"),
                ("nabf", "Nabf", "nabf", False, _CHANNELS, _BY_EDGES),
                ("vif", "VIF", "vif", True, _CHANNELS, _SUM),
                ("cc", "CC", "correlation_coefficient", True, _CHANNELS, _MEAN),
                ("scd", "SCD", "scd", True, _CHANNELS, _SUM),
                ("qw", "Qw", "qw", True, _CHANNELS, "sources weighted by their variance"),
                (
                    "qy",
                    "Qy",
                    "qy",
                    True,
                    _CHANNELS,
                    "sources weighted by their variance, the best one where they differ",
                ),
                ("ssim_sources", "SSIM", "ssim_sources", True, _options(**_GREY, **_WINDOW), _MEAN),
                # MEFB's own form is for two sources only.
                ("qc", "Qc", "qc", True, _PAPER, "sources weighted by their covariance with the result"),
            )
        ),
        *(
            Metric(
                function,
                function.upper().replace("_", "-"),
                function,
                "reference",
                _options(domain="linear", normalize="none", data_range=1.0, color="rgb", **windows),
                digits=digits,
            )
            for function, digits, windows in (("psnr", 3, {}), ("ssim", 4, _WINDOW), ("ms_ssim", 4, _WINDOW))
        ),
        *(
            Metric(
                f"{function}_{domain}",
                f"{function.upper().replace('_', '-')} ({label})",
                function,
                "reference",
                _options(domain=domain, normalize="reference", data_range=span, color="rgb", **windows),
                digits=digits,
                linear=True,
            )
            for function, digits, windows in (("psnr", 3, {}), ("ssim", 4, _WINDOW), ("ms_ssim", 4, _WINDOW))
            for domain, label, span in (
                ("linear", "linear", 1.0),
                ("mu", "μ-law", 1.0),
                ("pq", "PQ", 1.0),
                ("pu21", "PU21", 256.0),
            )
        ),
    )
}


def chosen(text: str | None, reference: bool) -> list[Metric]:
    """The metrics that ``--metrics`` names, of those that sources or a reference allow, in the order of the table.

    A function's name stands for all metrics that are computed by it, and ``ssim`` with sources for ``ssim_sources``.
    """
    from hdrops.io import InputError

    own, other = ("reference", "sources") if reference else ("sources", "reference")
    possible = [metric for metric in METRICS.values() if metric.needs != other]
    usual = [metric for metric in possible if metric.needs == own or not reference]
    if text is None:
        return [metric for metric in usual if metric.standard]
    if text == "fast":
        return [metric for metric in usual if metric.fast]
    if text == "all":
        return possible
    wanted = set()
    for name in (part.strip().lower().replace("-", "_") for part in text.split(",")):
        found = {m.name for m in possible if name in (m.name, m.function, m.name.removesuffix("_sources"))}
        if name in METRICS and not found:
            raise InputError(f"{name} is measured with --{other}, not with --{own}; leave it out of --metrics")
        if not found:
            known = ", ".join(metric.name for metric in possible)
            raise InputError(f"--metrics has {name!r}, which is no metric; take all, fast, or some of {known}")
        wanted |= found
    return [metric for metric in possible if metric.name in wanted]
