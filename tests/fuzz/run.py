"""Fuzz every reader, each in a process of its own: ``run.py SECONDS FOLDER [FORMAT ...]``.

FOLDER gets what was found, and the inputs that were new to the code, to go on with in another run.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

SECONDS_PER_INPUT = 10
MEGABYTES = 2048
LONGEST = 1 << 16

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from fuzz.seeds import FORMATS  # noqa: E402


def fuzz(name: str, seconds: int, folder: pathlib.Path) -> bool:
    """Whether one format is clean."""
    corpus, seeds, findings = (folder / name / part for part in ("corpus", "seeds", "findings"))
    for place in (corpus, seeds, findings):
        place.mkdir(parents=True, exist_ok=True)
    FORMATS[name][0](seeds)
    known = set(findings.iterdir())
    command = [
        *(sys.executable, str(HERE / "reader.py"), name),
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_PER_INPUT}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        *map(str, (corpus, seeds)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=2 * seconds + 120, env=environment
        )
        log, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        log, code = f"{error}\n", -1
    (folder / name / "log.txt").write_text(log)
    executions = re.search(r"number_of_executed_units: (\d+)", log)
    peak = re.search(r"peak_rss_mb: +(\d+)", log)
    found = sorted(set(findings.iterdir()) - known)
    clean = code == 0 and executions is not None and not found
    facts = f"{executions[1] if executions else '?'} inputs, peak {peak[1] if peak else '?'} MB"
    print(f"{name:8} {'clean' if clean else 'FOUND'}  {facts}", *found, sep="  ", flush=True)
    if not clean:
        more = f"         exit code {code}; {folder / name / 'log.txt'} tells more"
        print(more, *log.splitlines()[-12:], sep="\n    ", flush=True)
    return clean


def main() -> None:
    seconds, folder, names = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:] or list(FORMATS)
    verdicts = [fuzz(name, seconds, folder) for name in names]
    sys.exit(0 if all(verdicts) else 1)


if __name__ == "__main__":
    main()
