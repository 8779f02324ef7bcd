"""A live model is scored as its saved self would be, by what its objective taught it."""

import csv
from pathlib import Path

import pytest
import torch

from sleep_tune.config import Config, load_config
from sleep_tune.data.token_store import Prepared, open_store, prepare
from sleep_tune.presets import combine, set_field
from sleep_tune.scoring import Scorer
from sleep_tune.study.material import recipe
from sleep_tune.training.model_directory import save_model
from sleep_tune.training.models import new_network
from sleep_tune.training.registry import MODELS

SMALL = {"data.source": {"embedded": {"words": 3000, "seed": 1}}, "tokenizer.vocab_size": 400, "evaluation.final.items_per_uid": 4}


def config_of(name: str) -> Config:
    raw = combine(["tiny", "epochs"])
    for field, value in {**SMALL, "model.name": name, "objective": MODELS[name].objectives[0]}.items():
        raw = set_field(raw, field, value)
    return load_config(raw)


@pytest.fixture(scope="module")
def prepared(cache: Path) -> Prepared:
    return prepare(**recipe(config_of("roberta_pln_tiny")))


@pytest.mark.parametrize(("name", "backend"), [("roberta_pln_tiny", "mlm"), ("gpt2_tiny", "causal")])
def test_a_live_model_scores_as_the_command_line_scores_its_directory(name: str, backend: str, prepared: Prepared, tmp_path: Path) -> None:
    import transformers

    from sleep_tune.evaluation.evaluate import evaluate
    from sleep_tune.evaluation.margins import read_items
    from sleep_tune.evaluation.official_data import load_items

    config = config_of(name)
    network = new_network(config.model, open_store(prepared.directory).vocab_size, 3, config.training, torch.device("cpu"))
    tasks, rows = Scorer(config, prepared).at_the_end(network.model, tmp_path / "evaluation")
    assert set(tasks) == {"pairs"}
    assert {row["backend"] for row in rows} == {backend}
    kept = read_items(tmp_path / "evaluation" / "items.parquet")
    assert len(kept) == sum(row["n"] for row in rows)
    save_model(network.model, prepared.tokenizer_file, tmp_path / "model", config, tasks)
    model = getattr(transformers, MODELS[name].auto_class).from_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert prepared.pairs_file is not None
    items = load_items(prepared.pairs_file, ["pairs"], True, 4, 0, "honest")
    assert [(row.uid, row.score) for row in evaluate(model, tokenizer, items, backend)] == [(row["uid"], row["score"]) for row in rows]


def test_a_trials_end_has_reading_beside_other_tasks(prepared: Prepared, shared_data: Path, tmp_path: Path) -> None:
    raw = combine(["tiny", "epochs"])
    asked = {"evaluation.data": str(shared_data / "evaluation_data"), "evaluation.final.tasks": ["reading", "wug_past"]}
    for field, value in {**SMALL, **asked}.items():
        raw = set_field(raw, field, value)
    config = load_config(raw)
    network = new_network(config.model, open_store(prepared.directory).vocab_size, 3, config.training, torch.device("cpu"))
    tasks, rows = Scorer(config, prepared).at_the_end(network.model, tmp_path)
    assert list(tasks) == ["reading", "wug_past"]
    with (shared_data / "evaluation_data/fast_eval/reading/reading_data.csv").open(newline="") as file:
        words = [word for word in csv.DictReader(file) if word["Subtlex_log10"]]  # 30 of 1,726 words have no frequency
    counts = [("eye_tracking", len(words)), ("self_paced", sum(bool(word["prev_item"]) for word in words)), ("wug_past", 4)]
    assert [(row["uid"], row["n"]) for row in rows] == counts
    assert (tmp_path / "results/model/main/zero_shot/mlm/reading/report.txt").is_file()
