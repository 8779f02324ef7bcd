"""`python -m sleep_tune.train` that is killed (SIGKILL) within a phase: `python killer.py PHASE STEP NTH ARGUMENTS`.

The moment is the NTH call or return, of Python or of C (a write, an fsync, a rename), that happens within PHASE once STEP optimizer steps
are done. It does not depend on how fast the machine is. What it was is the last line of stderr. A run that is not killed, as with NTH = 0,
ends with a line on stdout: {phase: [times entered, calls and returns within]}.
"""

import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm  # noqa: F401  before calls are seen: millions of them

from sleep_tune import train
from sleep_tune.errors import run_main
from sleep_tune.records import Appended
from sleep_tune.training import loop, night
from sleep_tune.training.checkpoint import load_newest
from sleep_tune.training.checkpoint_writer import Writer
from sleep_tune.trial import Trial, remove_leftovers

PHASES = {
    remove_leftovers: "opening",
    load_newest: "opening",
    Appended.__init__: "opening",
    night.fall_asleep: "selection",
    night.wake_up: "selection",
    Trial.save: "copy",  # a checkpoint in the training thread
    Writer._write: "write",  # and in the writing one: records, file, rename, removal of the oldest
    Trial._report: "evaluation",
    Trial._note_cycle: "evaluation",
    Trial.finish: "end",
}
Profile = Callable[[FrameType, str, Any], None]


class Killer:
    """Sees all calls and returns of this process, and ends it."""

    def __init__(self, phase: str, step: int, nth: int) -> None:
        self.phase, self.step, self.left, self.done = phase, step, nth, 0
        self.counts: dict[str, list[int]] = {}
        self.begin = loop.train.__code__  # the step whose number is its argument
        self.phases: dict[CodeType, str] = {function.__code__: name for function, name in PHASES.items()}
        assert list(inspect.signature(loop.train).parameters) == ["run", "state", "rows"]

    def profile(self) -> Profile:
        """What `sys.setprofile` takes, for one thread."""
        within: list[tuple[FrameType, str]] = []  # phases, the innermost last

        def note(frame: FrameType, event: str, what: Any) -> None:
            if event == "call" and (frame.f_code in self.phases or frame.f_code is self.begin):
                within.append((frame, self.enter(frame)))
                self.counts.setdefault(within[-1][1], [0, 0])[0] += 1
            if within:
                self.count(within[-1][1], frame, event, what)
                if event == "return" and frame is within[-1][0]:
                    within.pop()

        return note

    def enter(self, frame: FrameType) -> str:
        if frame.f_code is not self.begin:
            return self.phases[frame.f_code]
        state = frame.f_locals["state"]
        self.done = state.step
        return str(state.phase)

    def count(self, phase: str, frame: FrameType, event: str, what: Any) -> None:
        self.counts[phase][1] += 1
        if phase != self.phase or self.done < self.step:
            return
        self.left -= 1
        if self.left == 0:
            name = getattr(what, "__qualname__", "?") if event.startswith("c_") else frame.f_code.co_qualname
            os.write(2, f"\nkilled: {phase}, {self.done} steps done, {event} of {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def begin_with(self, thread: FrameType, event: str, what: Any) -> None:
        """The first event of a new thread: it gets a profile of its own."""
        profile = self.profile()
        sys.setprofile(profile)
        profile(thread, event, what)


if __name__ == "__main__":
    killer = Killer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    threading.setprofile(killer.begin_with)
    sys.setprofile(killer.profile())
    try:
        run_main(lambda: train.main(sys.argv[4:]))
    finally:
        sys.setprofile(None)
        print(json.dumps(killer.counts))
