"""``hdrops info``."""

from __future__ import annotations

import json
import platform
from typing import Any


def collect() -> dict[str, Any]:
    """All facts, as they are printed with ``--json``."""
    import importlib.metadata

    import torch

    import hdrops
    from hdrops import _C
    from hdrops.ops import _providers

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def providers(operator: str) -> dict[str, dict[str, str | None]]:
        served = {}
        for device in ("cpu", "cuda"):
            name, reason = _providers.provider(device)
            native = torch._C._dispatch_has_kernel_for_dispatch_key(f"hdrops::{operator}", device.upper())
            if name in ("cpp", "cuda") and not native:
                name, reason = "reference", f"hdrops has no {device} kernel of {operator}"
            served[device] = {"provider": name, "reason": reason or None}
        return served

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {
            "hdrops": hdrops.__version__,
            "torch": torch.__version__,
            "triton": version("triton"),
            "numpy": version("numpy"),
            "OpenImageIO": version("OpenImageIO"),
            "rawpy": version("rawpy"),
            "pillow-heif": version("pillow-heif"),
            "Python": platform.python_version(),
        },
        "cpu": {
            "level": _C.cpu_level(),
            "best_level": _C.best_cpu_level(),
            "compiled_levels": _C.cpu_levels.split(),
            "torch_threads": torch.get_num_threads(),
            "compiler": _C.compiler,
        },
        "gpu": {
            "devices": gpus,
            "torch_cuda": torch.version.cuda,
            "built_with_cuda": _C.built_with_cuda,
            "cuda_version": _C.cuda_version or None,
            "cuda_architectures": _C.cuda_architectures.split() if _C.built_with_cuda else [],
        },
        "inactive": {"cuda": _providers.cuda_missing(), "triton": _providers.triton_missing()},
        "operators": {
            operator: providers(operator)
            for operator in _providers.operators
            if not operator.endswith(("_out", "_backward"))
        },
    }


def run(as_json: bool) -> None:
    facts = collect()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for package, version in facts["versions"].items():
        table.add_row(package, version or escape("not installed; pip install 'hdrops[cli,raw,heif,triton]'"))
    cpu, gpu = facts["cpu"], facts["gpu"]
    table.add_row(
        "CPU level",
        f"{cpu['level']} (best here {cpu['best_level']}, compiled {', '.join(cpu['compiled_levels'])})",
    )
    table.add_row("CPU build", cpu["compiler"])
    table.add_row("torch threads", str(cpu["torch_threads"]))
    table.add_row("GPU", ", ".join(gpu["devices"]) or "none visible to torch")
    built = (
        f"nvcc {gpu['cuda_version']} for {', '.join(gpu['cuda_architectures'])}" if gpu["built_with_cuda"] else "none"
    )
    table.add_row("CUDA build", built)
    for backend, reason in facts["inactive"].items():
        table.add_row(f"{backend} kernels", "active" if reason is None else escape(f"inactive: {reason}"))
    console.print(table)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("operator", "cpu", "cuda"):
        table.add_column(heading, no_wrap=True)
    for operator, providers in facts["operators"].items():
        table.add_row(operator, providers["cpu"]["provider"], providers["cuda"]["provider"])
    console.print()
    console.print(table)
