"""The page on the mechanism, docs/sleep.md, leaves nothing out that can be set, chosen or read."""

import re
from pathlib import Path

import pytest

from sleep_tune.config import Freezing, Homeostasis, LossThresholdRule, Sleep
from sleep_tune.presets import presets
from sleep_tune.sleep.criteria import CRITERIA
from sleep_tune.sleep.strategies import STRATEGIES
from sleep_tune.study.tables import CYCLE_COLUMNS, PHASE_LOSSES
from sleep_tune.training.registry import MODELS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sleep.md").read_text()
NAMED = set(re.findall(r"[\w-]+", " ".join(re.findall(r"`[^`]+`", re.sub(r"```.*?```", "", PAGE, flags=re.S)))))
THERE = {
    "fields of sleep": Sleep.model_fields,
    "fields of homeostasis": Homeostasis.model_fields,
    "fields of freezing": Freezing.model_fields,
    "fields of the loss threshold": LossThresholdRule.model_fields,
    "criteria": CRITERIA,
    "strategies": STRATEGIES,
    "models": MODELS,
    "schedules": [name for name, row in presets().items() if row["kind"] == "schedule"],
    "columns of the table cycles": [*CYCLE_COLUMNS.names, *PHASE_LOSSES.values()],
}


@pytest.mark.parametrize("what", THERE)
def test_the_page_names_all(what: str) -> None:
    assert set(THERE[what]) - NAMED == set()


def test_the_page_has_its_picture() -> None:
    assert "](schedule.png)" in PAGE
