"""`python killed_command.py FILE ARGUMENTS`: the evaluation command, killed (SIGKILL) where it is about to publish FILE.

FILE is how the path ends. At that moment the file is written beside its place, and whatever is published before it is there.
"""

import os
import signal
import sys
from typing import Any

from sleep_tune.errors import run_main
from sleep_tune.evaluation.__main__ import main


def kill(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.rename" and str(arguments[1]).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.addaudithook(kill)
    run_main(lambda: main(sys.argv[2:]))
