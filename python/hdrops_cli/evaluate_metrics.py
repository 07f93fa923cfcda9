"""The metrics that ``hdrops evaluate`` knows: one table."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        options: keyword arguments of the function.
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
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
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


METRICS = {
    metric.name: metric
    for metric in (
        Metric("ag", "AG", "average_gradient", "nothing"),
        Metric("ei", "EI", "edge_intensity", "nothing", digits=3),
        Metric("sf", "SF", "spatial_frequency", "nothing", digits=3),
        Metric("en", "EN", "entropy", "nothing"),
        Metric("sd", "SD", "standard_deviation", "nothing", digits=3),
        Metric("fmi", "FMI", "fmi", "sources", fast=False),
        Metric("lpc_si", "LPC-SI", "lpc_si", "nothing", fast=False),
        Metric("s3", "S3", "s3", "nothing"),
        Metric("piqe", "PIQE", "piqe", "nothing", higher_is_better=False, digits=3),
        Metric("ms_ssim_sources", "MS-SSIM", "ms_ssim_sources", "sources"),
        Metric("mef_ssim", "MEF-SSIM", "mef_ssim", "sources", module="hdrops"),
        Metric("qabf", "Qabf", "qabf", "sources"),
        Metric("viff", "VIFF", "viff", "sources", fast=False),
        *(
            Metric(name, label, function, "sources", higher_is_better=better, standard=False, fast=False)
            for name, label, function, better in (
                ("ce", "CE", "cross_entropy", False),
                ("mi", "MI", "mutual_information", True),
                ("nmi", "NMI", "normalized_mutual_information", True),
                ("te", "TE", "tsallis_entropy", True),
                ("qncie", "QNCIE", "qncie", True),
                ("nabf", "Nabf", "nabf", False),
                ("vif", "VIF", "vif", True),
                ("cc", "CC", "correlation_coefficient", True),
                ("scd", "SCD", "scd", True),
                ("qw", "Qw", "qw", True),
                ("qy", "Qy", "qy", True),
                ("ssim_sources", "SSIM", "ssim_sources", True),
            )
        ),
        # MEFB's own form of Qc is for two sources only.
        Metric("qc", "Qc", "qc", "sources", MappingProxyType({"convention": "paper"}), standard=False, fast=False),
        Metric("psnr", "PSNR", "psnr", "reference", digits=3),
        Metric("ssim", "SSIM", "ssim", "reference"),
        Metric("ms_ssim", "MS-SSIM", "ms_ssim", "reference"),
        *(
            Metric(
                f"{function}_{domain}",
                f"{function.upper().replace('_', '-')} ({label})",
                function,
                "reference",
                MappingProxyType({"domain": domain, "normalize": "reference"}),
                digits=3 if function == "psnr" else 4,
                linear=True,
            )
            for function in ("psnr", "ssim", "ms_ssim")
            for domain, label in (("linear", "linear"), ("mu", "μ-law"), ("pq", "PQ"), ("pu21", "PU21"))
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
