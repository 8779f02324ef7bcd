"""The workers of a trial beside the one that holds it: processes that train the same run on their part of every batch and write nothing.

`python -m sleep_tune.workers` is such a process. Its life is the pipe from the process that started it: when that one ends, however it
ends, the pipe closes and the worker leaves. What is computed together is `training.parallel`'s.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sleep_tune.errors import RunError, one_line

if TYPE_CHECKING:
    from sleep_tune.config import Config
    from sleep_tune.sleep.matched import MatchedPlan
    from sleep_tune.training.parallel import Team
    from sleep_tune.training.run import Run, State

LEAVE_S = 10.0  # for a worker to end by itself
READY = b"ready\n"
LOST = 3  # exit code of a worker that another one left


@dataclass(frozen=True)
class Told:
    """What a worker is told at its start: the config, where the token store lies, and where it meets the others."""

    config: Config
    store: Path
    rank: int
    meeting: str


@dataclass(frozen=True)
class Opening:
    """What rank 0 has found in the trial's directory, so that no other worker reads or judges a checkpoint."""

    matched: MatchedPlan | None
    state: bytes


def open_together(team: Team, run: Run, state: State, matched: MatchedPlan | None) -> None:
    """Rank 0: take the team into the run, and tell the others of it."""
    import torch

    from sleep_tune.training.checkpoint import snapshot

    content = io.BytesIO()
    torch.save(snapshot(run, state, {}), content)
    team.once(lambda: Opening(matched, content.getvalue()))
    run.team = team


def work(told: Told) -> None:
    """Another rank: train from where rank 0 is to the end of the run. Raises WorkerLost where another worker ends before."""
    import torch

    from sleep_tune.data.token_store import open_store
    from sleep_tune.training.checkpoint import restore
    from sleep_tune.training.loop import advance
    from sleep_tune.training.parallel import Team
    from sleep_tune.training.run import Run, computing_device

    config = told.config
    torch.set_num_threads(config.resources.threads)
    device = computing_device(config)
    team = Team(told.rank, config.resources.workers, told.meeting, device)
    try:
        opening: Opening = team.once(_heard)
        run = Run(config, open_store(told.store), device, opening.matched)
        state = restore(run, torch.load(io.BytesIO(opening.state), weights_only=True))
        run.team = team
        for _ in advance(run, state, config.budget_words):
            pass
    finally:
        team.close()


def _heard() -> Opening:
    raise AssertionError("rank 0 tells, the others hear")


class LocalWorkers:
    """The other workers as processes of this machine, as a context manager; `team` is None where the config asks for one worker."""

    def __init__(self, config: Config, store: Path) -> None:
        self._size, self._processes = config.resources.workers, []  # type: ignore[var-annotated]
        self.team: Team | None = None
        if self._size > 1:
            try:
                self._start(config, store)
            except BaseException:
                self.close()
                raise

    def _start(self, config: Config, store: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="sleep-tune-") as folder, on_loopback():
            for rank in range(1, self._size):
                self._processes.append(_started(Told(config, store, rank, f"{folder}/meeting")))
            from sleep_tune.training.parallel import Team, WorkerLost
            from sleep_tune.training.run import computing_device

            for process in self._processes:  # nobody waits at the meeting for a worker that will not come
                if process.stdout.readline() != READY:
                    raise RunError(self.why())
            try:
                self.team = Team(0, self._size, f"{folder}/meeting", computing_device(config))
            except WorkerLost as error:
                raise RunError(self.why()) from error

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers that still run."""
        for process in self._processes:
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        self._processes = []
        if self.team is not None:
            self.team.close()

    def why(self) -> str:
        """One line on the worker that was lost."""
        until = time.monotonic() + LEAVE_S
        while time.monotonic() < until:
            for number, process in enumerate(self._processes, 2):
                if process.poll() not in (None, 0, LOST):
                    return f"worker {number} of {self._size} {_end_of(process)}; the same command goes on from the newest checkpoint"
            time.sleep(0.05)
        return f"a worker of {self._size} cannot be reached; the same command goes on from the newest checkpoint"


def _started(told: Told) -> subprocess.Popen[bytes]:
    """A process that works as it is told, with the code that runs here; on a GPU of its own where there are GPUs."""
    path = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    if told.config.resources.gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(told.config.resources.workers)))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[told.rank]
    command = [sys.executable, "-m", "sleep_tune.workers"]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, env=environment)
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died: whoever waits for it will say so
        process.stdin.write(pickle.dumps(told))
        process.stdin.flush()
    return process


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """How a process ended: its last words, or the signal that killed it."""
    assert process.stdout is not None
    said = process.stdout.read().decode(errors="replace").strip().splitlines()
    if process.returncode < 0:
        return f"was killed (signal {-process.returncode})"
    return f"failed: {said[-1]}" if said else f"ended with exit code {process.returncode}"


@contextmanager
def on_loopback() -> Iterator[None]:
    """What gloo opens here listens on this machine alone; for workers that are all on one."""
    name = "GLOO_SOCKET_IFNAME"
    before = os.environ.get(name)
    os.environ[name] = before or ("lo" if sys.platform == "linux" else "lo0")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def main() -> None:
    """Work as the pipe says. Signals of the terminal are the first worker's to answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    told = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    code = 0
    try:
        from sleep_tune.training.loop import advance  # noqa: F401  (what takes seconds, before anyone waits)
        from sleep_tune.training.parallel import WorkerLost

        os.write(1, READY)
        try:
            work(told)
        except WorkerLost:
            code = LOST
    except BaseException as error:
        print(f"\n{type(error).__name__}: {one_line(error)}", flush=True)
        code = 1
    os._exit(code)


def _leave_with_parent() -> None:
    while os.read(0, 1 << 16):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
