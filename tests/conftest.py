"""Where tests find real BabyLM data, and a cache that is theirs alone."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
_OURS = "SLEEP_TUNE_TEST_CACHE"

settings.register_profile("no clock", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("no clock")


def pytest_configure(config: pytest.Config) -> None:
    """One cache for the session and all its workers, so that the embedded corpus is prepared once, and never the user's own."""
    if not hasattr(config, "workerinput"):
        os.environ[_OURS] = tempfile.mkdtemp(prefix="sleep-tune-cache-")
    os.environ["SLEEP_TUNE_CACHE"] = os.environ[_OURS]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(_OURS), ignore_errors=True)


@pytest.fixture(scope="session")
def cache() -> Path:
    """The session's cache directory."""
    return Path(os.environ["SLEEP_TUNE_CACHE"])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real BabyLM text, evaluation data and official scores; a visible skip where there are none."""
    path = Path(os.environ.get("SLEEP_TUNE_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not (path / "babylm").is_dir():
        pytest.skip(f"no real BabyLM data at {path} (set SLEEP_TUNE_DATA)")
    return path
