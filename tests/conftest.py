"""Where tests find real BabyLM data, and a cache of their own."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real BabyLM text, evaluation data and official scores; a visible skip where there are none."""
    path = Path(os.environ.get("SLEEP_TUNE_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not (path / "babylm").is_dir():
        pytest.skip(f"no real BabyLM data at {path} (set SLEEP_TUNE_DATA)")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache directory for the whole session, so that the embedded corpus is prepared once, and never the user's own."""
    if "PYTEST_SLEEP_TUNE_CACHE" in os.environ:  # set by the first worker's parent, shared by all xdist workers
        return Path(os.environ["PYTEST_SLEEP_TUNE_CACHE"])
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_TUNE_CACHE", str(cache))
