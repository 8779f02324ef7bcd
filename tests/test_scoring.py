"""A live model is scored as its saved self would be, by what its objective taught it."""

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.config import Config, load_config
from sleep_tune.data.token_store import Prepared, open_store, prepare
from sleep_tune.presets import combine, set_field
from sleep_tune.scoring import Scorer, affordable
from sleep_tune.study.material import recipe
from sleep_tune.training.model_directory import save_model
from sleep_tune.training.models import new_network
from sleep_tune.training.registry import MODELS

SMALL = {"data.source": {"embedded": {"words": 3000, "seed": 1}}, "tokenizer.vocab_size": 400, "evaluation.final.items_per_uid": 4}


def config_of(name: str, **more: Any) -> Config:
    raw = combine(["tiny", "epochs"])
    fields = {field.replace("__", "."): value for field, value in more.items()}
    for field, value in {**SMALL, "model.name": name, "objective": MODELS[name].objectives[0], **fields}.items():
        raw = set_field(raw, field, value)
    return load_config(raw)


def network_of(config: Config, prepared: Prepared) -> Any:
    return new_network(config.model, open_store(prepared.directory).vocab_size, 3, config.training, torch.device("cpu"))


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
    save_model(network.model, prepared.tokenizer_file, tmp_path / "model", config, {})
    tasks, rows = Scorer(config, prepared).at_the_end(network.model, tmp_path / "model", tmp_path / "evaluation")
    assert set(tasks) == {"pairs"}
    assert {row["backend"] for row in rows} == {backend}
    kept = read_items(tmp_path / "evaluation" / "items.parquet")
    assert len(kept) == sum(row["n"] for row in rows)
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
    save_model(network.model, prepared.tokenizer_file, tmp_path / "model", config, {})
    tasks, rows = Scorer(config, prepared).at_the_end(network.model, tmp_path / "model", tmp_path)
    assert list(tasks) == ["reading", "wug_past"]
    with (shared_data / "evaluation_data/fast_eval/reading/reading_data.csv").open(newline="") as file:
        words = [word for word in csv.DictReader(file) if word["Subtlex_log10"]]  # 30 of 1,726 words have no frequency
    counts = [("eye_tracking", len(words)), ("self_paced", sum(bool(word["prev_item"]) for word in words)), ("wug_past", 4)]
    assert [(row["uid"], row["n"]) for row in rows] == counts
    assert (tmp_path / "results/model/main/zero_shot/mlm/reading/report.txt").is_file()


@given(st.integers(1, 10**6), st.integers(0, 10**5), st.integers(1, 5000), st.integers(1, 300), st.none() | st.integers(1, 400))
def test_the_sample_is_the_largest_that_is_affordable(tokens: int, whole: int, each: int, most: int, asked: int | None) -> None:
    def size_of(items: int | None) -> tuple[int, int]:
        count = most if items is None else min(items, most)
        return whole + each * count, count  # some tasks are scored whole

    chosen = affordable(size_of, asked, tokens)
    there = size_of(chosen)[1]
    assert size_of(chosen)[0] <= tokens or there == 1
    if there < size_of(asked)[1]:
        assert size_of(there + 1)[0] > tokens
    else:
        assert chosen == asked or there == 1


WAY = {"evaluation__milestones__tasks": ["pairs"]}


def test_milestones_are_scored_on_one_seeded_sample_that_fits_the_share(prepared: Prepared) -> None:
    tenths = [5000 * tenth for tenth in range(1, 11)]
    whole = Scorer(config_of("roberta_pln_tiny", **WAY, evaluation__share=None), prepared).way(tenths, 1.5)
    [(_, everything)] = whole.plans
    assert whole.milestones == set(tenths)
    chosen = {}
    for share in (1.0, 0.5, 0.05):
        way = Scorer(config_of("roberta_pln_tiny", **WAY, evaluation__share=share), prepared).way(tenths, 1.5)
        [(_, plan)] = way.plans
        chosen[share] = {(item.uid, item.index) for item in plan.items[0].items}
        assert {uid for uid, _ in chosen[share]} == {item.uid for item in everything.items[0].items}
        if len(chosen[share]) > len({uid for uid, _ in chosen[share]}):
            assert plan.n_tokens <= share * 3 * 5000 * 1.5
            assert way.milestones == set(tenths)
        for done, milestone in enumerate(sorted(way.milestones), start=1):
            assert done * plan.n_tokens <= share * 3 * milestone * 1.5
    assert chosen[0.05] < chosen[1.0] < {(item.uid, item.index) for item in everything.items[0].items}
    assert chosen[0.05] <= chosen[0.5] <= chosen[1.0]


def test_a_row_on_the_way_tells_its_sample_and_every_milestone_has_the_same(prepared: Prepared, tmp_path: Path) -> None:
    from sleep_tune.evaluation.margins import read_items

    config = config_of("roberta_pln_tiny", **WAY, evaluation__share=1.0)
    tenths = [5000 * tenth for tenth in range(1, 11)]
    model = network_of(config, prepared).model
    kept = []
    for milestone in (5000, 25000, 50000):
        scores, rows = Scorer(config, prepared).on_the_way(model, milestone, tenths, 1.5, tmp_path / str(milestone))
        assert set(scores) == {"pairs"}
        assert {(row["set"], row["n"]) for row in rows} == {("full", row["items_per_uid"]) for row in rows}
        assert all(row["stderr"] >= 0 for row in rows)
        kept.append(read_items(tmp_path / str(milestone)))
    for one, two in pairwise(kept):
        assert (one.text == two.text).all()
    free = config_of("roberta_pln_tiny", **WAY, evaluation__share=None, evaluation__milestones__items_per_uid=None)
    _, rows = Scorer(free, prepared).on_the_way(model, 5000, tenths, 1.5)
    assert {row["items_per_uid"] for row in rows} == {None}


def test_the_end_is_scored_on_the_set_that_is_asked_for(prepared: Prepared, shared_data: Path, tmp_path: Path) -> None:
    asked = {"evaluation__data": str(shared_data / "evaluation_data"), "evaluation__final__tasks": ["supplement", "wug_past"]}
    asked["evaluation__final__items_per_uid"] = 1
    texts, saved = {}, tmp_path / "model"
    first = config_of("roberta_pln_tiny")
    save_model(network_of(first, prepared).model, prepared.tokenizer_file, saved, first, {})
    for which, directory in (("fast", "supplement_fast"), ("full", "supplement_filtered")):
        config = config_of("roberta_pln_tiny", **asked, evaluation__final__set=which)
        scorer = Scorer(config, prepared)
        texts[which] = [text for parts, _ in scorer.finals() for item in parts[0].items.items for text in item.sentences]
        _, rows = scorer.at_the_end(network_of(config, prepared).model, saved, tmp_path / which)
        assert {(row["set"], row["items_per_uid"], row["n"]) for row in rows} == {(which, 1, 1)}
        assert (tmp_path / which / "results/model/main/zero_shot/mlm/blimp" / directory).is_dir()
    assert not set(texts["fast"]) >= set(texts["full"])
    assert combine(["strict-small", "epochs"])["evaluation"]["final"]["set"] == "full"  # the challenge asks for the full sets at the end
    assert load_config(combine(["pilot", "epochs"])).evaluation.final.set == "fast"


class Left(Exception):
    pass


def test_the_end_goes_on_where_it_was_left_and_has_the_fast_set_too(prepared: Prepared, tmp_path: Path) -> None:
    data, saved, out = tmp_path / "evaluation_data", tmp_path / "model", tmp_path / "evaluation"
    pairs = [{"sentence_good": f"the dog sees {n} cats .", "sentence_bad": f"the dog see {n} cats ."} for n in range(9)]
    for place, count in (("full_eval/blimp_filtered", 9), ("fast_eval/blimp_fast", 4), ("full_eval/supplement_filtered", 7)):
        (data / place).mkdir(parents=True)
        lines = [json.dumps(pair | {"field": "f", "UID": "u", "linguistics_term": "t"}) for pair in pairs[:count]]
        (data / place / "u.jsonl").write_text("\n".join(lines) + "\n")
    tasks = {"evaluation__data": str(data), "evaluation__final__tasks": ["blimp", "supplement"]}
    config = config_of("roberta_pln_tiny", **tasks, evaluation__final__set="full", evaluation__final__items_per_uid=None)
    network = network_of(config, prepared)
    save_model(network.model, prepared.tokenizer_file, saved, config, {})
    calm, rows = Scorer(config, prepared).at_the_end(network.model, saved, tmp_path / "calm")
    totals: list[int] = []

    def leave(done: int, of: int) -> None:
        totals.append(of)
        if len(set(totals)) == 2:  # in the second task
            raise Left

    scorer = Scorer(config, prepared)
    with pytest.raises(Left):
        scorer.at_the_end(network.model, saved, out, lambda task: leave)
    done = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.json")}
    assert "tasks/main/mlm/honest/full/blimp.json" in done
    assert scorer.at_the_end(network.model, saved, out, lambda task: lambda done, of: totals.append(of)) == (calm, rows)
    assert all((out / path).read_bytes() == content for path, content in done.items())
    assert {(row["task"], row["set"], row["n"]) for row in rows} == {("blimp", "full", 9), ("supplement", "full", 7)}
    assert json.loads((out / "tasks/main/mlm/honest/fast/blimp.json").read_text())["rows"][0]["n"] == 4
    places = {path.parent.name for path in out.rglob("predictions.json")}
    assert places == {"blimp_filtered", "blimp_fast", "supplement_filtered"}
