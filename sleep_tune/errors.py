"""The one exception that users cause, and what prints it: one line on stderr, exit code 2."""

import argparse
import difflib
import gc
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class UserError(Exception):
    """Bad input. Its message is one line: the field or file, the value, what is allowed, the nearest name."""

    exit_code = 2


class RunError(UserError):
    """The input was good and the run failed for good all the same (disk full, only damaged checkpoints)."""

    exit_code = 1


def nearest(name: str, allowed: Iterable[str], prefix: str = "") -> str:
    """` (did you mean X?)` where a name of `allowed` is close to `name`, else the allowed names in brackets; each after `prefix`."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name.lower(), [*map(str.lower, names)], n=1, cutoff=0.6)
    if close:
        return f" (did you mean {prefix}{next(one for one in names if one.lower() == close[0])}?)"
    return f" (allowed: {', '.join(prefix + name for name in names)})" if names else ""


def one_line(error: BaseException) -> str:
    """The message of `error` on a single line; its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports a mistake as one line, without the usage block."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a command-line `main` and exit with its code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        sys.stderr.close()
        code = 1
    gc.freeze()  # what torch and transformers leave is no garbage: to look through it while Python ends takes up to a second
    sys.exit(code)
