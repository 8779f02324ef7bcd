"""The made-up study of `tests/study`, for the plots."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("made_study", Path(__file__).resolve().parent.parent / "study" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_made)


@pytest.fixture(scope="session")
def made_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight schedules and two baselines on two seeds; two trials still run."""
    vary = {"sleep.strategy": ["random", "weighted"], "sleep.length": [{"ratio": 1.0}, {"ratio": 3.0}], "sleep.folds": [5, 20]}
    return _made.make_study(tmp_path_factory.mktemp("runs") / "made", vary, running=2)
