"""A series of checkpoints in one process: one model in memory at a time, one plan for all."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from sleep_tune.evaluation.checkpoint_series import score_series
from sleep_tune.evaluation.finished import Records, Target, part_of
from sleep_tune.evaluation.model_source import ModelSource
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.rules import RULES


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Path:
    return shared_data / "official_reference"


def test_a_model_is_let_go_before_the_next_is_loaded(reference: Path, tmp_path: Path) -> None:
    source = ModelSource(str(reference / "model"))
    records = Records(tmp_path, source, "mlm", "honest")
    parts = [part_of(items, True, None) for items in load_items(reference / "inputs" / "ewok_synthetic", ["ewok"], True)]
    targets = {name: Target(name, name, words) for name, words in (("chck_1M", 1e6), ("chck_2M", 2e6), ("chck_3M", 3e6))}
    alive: list[weakref.ref[Any]] = []
    before: list[int] = []

    def load(place: str) -> tuple[Any, Any]:
        gc.collect()
        before.append(sum(model() is not None for model in alive))
        model, tokenizer = source.load("mlm")
        alive.append(weakref.ref(model))
        return model, tokenizer

    seen: list[tuple[int, int]] = []
    assert score_series(load, targets, parts, records, lambda done, of: seen.append((done, of))) == list(targets)
    assert before == [0, 0, 0]
    assert seen[-1][0] == seen[-1][1]
    assert score_series(load, targets, parts, records) == []
    assert len(alive) == 3


def test_no_checkpoint_leaves_a_record_of_another_ones(reference: Path, tmp_path: Path) -> None:
    source = ModelSource(str(reference / "model"))
    records = Records(tmp_path, source, "mlm", "honest")
    [items] = load_items(reference / "inputs" / "ewok_synthetic", ["ewok"], True)
    part = part_of(items, True, None)

    def load(place: str) -> tuple[Any, Any]:
        model, tokenizer = source.load("mlm")
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(int(place))
            for weight in model.parameters():
                weight.normal_()
        return model, tokenizer

    targets = {str(k): Target(f"chck_{k}M", str(k), k * 1e6) for k in (1, 2)}
    score_series(load, targets, [part], records)
    texts = [json.loads(path.read_text())["rows"] for path in sorted(tmp_path.glob("tasks/*/mlm/honest/fast/ewok.json"))]
    assert len(texts) == 2
    found = records.gather([records.final, *targets.values()])
    assert [(one.revision, one.words_seen) for one in found] == [("chck_1M", 1e6), ("chck_2M", 2e6)]
    changed = [records.final, Target("chck_1M", "another", 1e6), targets["2"]]
    assert [one.revision for one in records.gather(changed)] == ["chck_2M"]
    assert {row.rules for one in found for row in one.rows} <= set(RULES)
