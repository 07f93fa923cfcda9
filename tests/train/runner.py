"""Training the toy in processes of their own, which tests may kill.

``runner.py OUT [KEY=VALUE ...]`` trains; torchrun may start several. ``runner.py --serve`` imports torch once and then
forks a process, or several that train together, for each line of JSON on its standard input: a start takes 50 ms so.
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import sys
import time

import torch
import toy

from hdrops.train import load_config, train

SYSTEMS = {"toy": toy.TOY, "linear": toy.linear()}


def run(out, settings=(), system="toy", progress=None, warn=lambda line: print(line, file=sys.stderr)):
    config = load_config(toy.ToyConfig, toy.TOY.presets, settings=settings)
    return train(SYSTEMS[system], config, out, progress=progress, warn=warn)


def _kill_at_file_event(folder, number):
    """SIGKILL to this process just before it opens, makes, renames or removes something in a folder for that time."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink"):
            return
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: seen


def _child(order, rank, port, pipe):
    count = order["processes"]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    events = _kill_at_file_event(order["out"], order["event"]) if rank == 0 else None

    def tell(kind, what):
        os.write(pipe, f"{kind} {what}\n".encode())

    outcome = run(
        order["out"],
        order["settings"],
        order["system"],
        lambda progress: tell("step", progress.step),
        lambda line: tell("warning", line),
    )
    asked = order["step"] is not None and order["signal"] != signal.SIGKILL
    assert outcome.signal == (order["signal"] if asked else None), (rank, outcome)
    if rank == 0:
        tell("events", events())


def _serve_one(order):
    """Start the processes, kill them if that is due, and tell what became of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reading, writing = os.pipe()
    children = []
    for rank in range(order["processes"]):
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(KeyboardInterrupt):
                os.setpgid(0, 0)
                os.close(reading)
                os.dup2(2, 1)
                _child(order, rank, port, writing)
                code = 0
            os._exit(code)
        children.append(pid)
    os.close(writing)
    said = b""
    if order["step"] is not None:
        while said.count(b"step ") < order["step"] and (part := os.read(reading, 1 << 16)):
            said += part
        time.sleep(order["delay"])
        if order["signal"] == signal.SIGKILL:
            for pid in random.sample(children, len(children)):
                os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(children[order["to"]], order["signal"])
    codes = {}
    while len(codes) < len(children):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] != 0:  # the others then end as well, as torchrun sees to
            for other in set(children) - set(codes):
                os.kill(other, signal.SIGKILL)
    while part := os.read(reading, 1 << 16):
        said += part
    os.close(reading)
    lines = [line.partition(" ") for line in said.decode().splitlines()]
    told = {kind: [what for k, _, what in lines if k == kind] for kind in ("step", "warning", "events")}
    return {
        "codes": [codes[pid] for pid in children],
        "events": int(told["events"][0]) if told["events"] else None,
        "steps": len(told["step"]),
        "warnings": told["warning"],
    }


def serve():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)  # imports what the first run would import
    for line in sys.stdin:
        print(json.dumps(_serve_one(json.loads(line))), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    else:
        outcome = run(sys.argv[1], sys.argv[2:])
        threads = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
        left = [name for name in threads if "gloo" in name or "store" in name]
        assert not left, f"threads that may abort the process at its end: {left}"
        os.write(1, f"{outcome.began} {outcome.step}\n".encode())
