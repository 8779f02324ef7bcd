"""The unmodified official pipeline's scores of a small RoBERTa, reproduced."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sleep_tune.evaluation.__main__ import main
from sleep_tune.evaluation.evaluate import evaluate, score_plan
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.official_layout import predictions, report
from sleep_tune.evaluation.plan import make_plan
from sleep_tune.evaluation.scores import task_score

FILES = [  # backend, our task, official task, dataset
    ("mlm", "blimp", "blimp", "blimp_2x100"),
    ("mlm", "supplement", "blimp", "supplement_5x20"),
    ("mlm", "ewok", "ewok", "ewok_synthetic"),
    ("mlm", "wug_adj", "wug_adj", "wug_adj_nominalization"),
    ("mlm", "wug_past", "wug_past", "wug_past_tense"),
    ("mlm", "comps", "comps", "comps"),
    ("mntp", "blimp", "blimp", "blimp_2x100"),
    ("mntp", "ewok", "ewok", "ewok_synthetic"),
]


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Path:
    return shared_data / "official_reference"


@pytest.fixture(scope="module")
def model_and_tokenizer(reference: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    return AutoModelForMaskedLM.from_pretrained(reference / "model"), AutoTokenizer.from_pretrained(reference / "model")


@pytest.mark.parametrize(("backend", "task", "official", "dataset"), FILES)
def test_scores_decisions_predictions_and_report_are_the_official_ones(
    backend: str, task: str, official: str, dataset: str, reference: Path, model_and_tokenizer: tuple[Any, Any]
) -> None:
    model, tokenizer = model_and_tokenizer
    plan = make_plan(tokenizer, load_items(reference / "inputs" / dataset, [task], fast=False, rules="2025"), backend)
    [result] = score_plan(model, plan)
    lines = (reference / "scores" / f"tiny_roberta__{backend}__{official}__{dataset}.jsonl").read_text().splitlines()
    theirs = {entry["id"]: entry for entry in map(json.loads, lines)}
    assert len(theirs) == len(result.items.items)
    for i, item in enumerate(result.items.items):
        entry = theirs[f"{item.uid}_{item.index}"]
        assert list(item.sentences) == entry["sentences"]
        assert list(item.completions) == entry["completions"]
        np.testing.assert_allclose(result.scores_IC[i], entry["scores"], atol=1e-3, rtol=0)
        assert result.decisions.chosen_I[i] == entry["chosen"]
    written = reference / "results" / backend / official / dataset
    text = (written / "best_temperature_report.txt").read_text()
    assert sorted(report(result).splitlines()) == sorted(text.splitlines())  # a directory's order decides that of the UIDs
    expected, ours = json.loads((written / "predictions.json").read_text()), predictions(result)
    if official.startswith("wug"):
        _compare_probabilities(ours, expected)
    assert ours == expected
    assert list(ours) == list(dict.fromkeys(item.uid for item in result.items.items))


def _compare_probabilities(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    """`prob` is a float of the whole computation: close, and taken out of what must be equal."""
    for uid in expected:
        for mine, theirs in zip(ours[uid]["predictions"], expected[uid]["predictions"], strict=True):
            assert mine.pop("prob") == pytest.approx(theirs.pop("prob"), rel=1e-3, abs=1e-12)


def test_the_command_writes_the_official_layout_and_goes_on_where_it_stopped(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(reference / "model"), "--data", str(reference / "inputs" / "ewok_synthetic")]
    command += ["--tasks", "ewok", "--rules", "2025", "--out", str(tmp_path)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "ewok" in shown
    assert "50.00" in shown
    place = tmp_path / "results" / "model" / "main" / "zero_shot" / "mlm" / "ewok" / "ewok_synthetic"
    official = reference / "results" / "mlm" / "ewok" / "ewok_synthetic"
    for name in ("best_temperature_report.txt", "predictions.json"):
        assert (place / name).read_bytes() == (official / name).read_bytes()
    before = (place / "predictions.json").stat().st_mtime_ns
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["tasks"]["ewok"]["score"] == 50.0
    assert main(command) == 0
    assert "already scored" in capsys.readouterr().err
    assert (place / "predictions.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    import pyarrow.parquet as pq

    rows, items = pq.read_table(tmp_path / "scores.parquet").to_pylist(), pq.read_table(tmp_path / "items.parquet").to_pydict()
    assert [(row["uid"], row["n"], row["score"], row["unit"]) for row in rows] == [("synthetic-domain", 6, 50.0, "percent")]
    assert items["credit"] == [float(margin > 0) for margin in items["margin"]]


def test_a_seeded_sample_scores_every_paradigm_of_real_blimp(shared_data: Path, model_and_tokenizer: tuple[Any, Any]) -> None:
    model, tokenizer = model_and_tokenizer
    items = load_items(shared_data / "evaluation_data", ["blimp", "entity_tracking"], fast=True, items_per_uid=2, seed=7)
    rows = evaluate(model, tokenizer, items)
    assert len({row.uid for row in rows if row.task == "blimp"}) == 67
    assert {row.n for row in rows} == {2}
    entity = [row for row in rows if row.task == "entity_tracking"]
    assert [row.uid for row in entity] == [f"regular_{n}_ops" for n in range(6)]
    assert task_score(entity) == pytest.approx(sum(row.score for row in entity) / 6)
