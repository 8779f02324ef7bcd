"""A trial's directory: what is in it, and that opening it again goes on exactly where its newest checkpoint is."""

import gc
import itertools
import json
import subprocess
import sys
import time
import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sleep_tune.config import Config, load_config
from sleep_tune.data.token_store import Prepared, prepare
from sleep_tune.errors import RunError
from sleep_tune.presets import combine, set_field
from sleep_tune.scoring import scored_milestones
from sleep_tune.study.material import recipe
from sleep_tune.training.meters import PARTS
from sleep_tune.trial import WORST_LOSS, Trial

MILESTONES = [500, 1000, 2000, 3000]
FIELDS = {
    "budget_words": 3000,
    "data.source": {"embedded": {"words": 3000, "seed": 1}},
    "tokenizer.vocab_size": 400,
    "model.width": 16,
    "model.heads": 2,
    "model.ffn": 32,
    "training.precision": "fp32",
    "evaluation.milestones.dev_words": 200,
    "evaluation.milestones.tasks": ["pairs"],
    "evaluation.milestones.items_per_uid": 1,
    "evaluation.share": 1.0,
    "evaluation.final.items_per_uid": 2,
}


def config(**fields: object) -> Config:
    raw = combine(["tiny", "default"])
    for field, value in {**FIELDS, "sleep.folds": 6, **{name.replace("__", "."): value for name, value in fields.items()}}.items():
        raw = set_field(raw, field, value)
    return load_config(raw)


@pytest.fixture(scope="module")
def corpus(cache: Path) -> Prepared:
    torch.set_num_threads(1)
    return prepare(**recipe(config()))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_to_the_end(trial: Trial) -> dict[str, float]:
    while trial.next_milestone() is not None:
        trial.advance()
    scores = trial.finish()
    trial.close()
    return scores


def results(directory: Path) -> tuple[bytes, bytes, list, list]:
    """Weights, exposures, step records without their times, scores."""
    steps = [{key: value for key, value in row.items() if key != "wall_s"} for row in lines(directory / "steps.jsonl")]
    weights = (directory / "model" / "model.safetensors").read_bytes()
    return weights, (directory / "exposures.npy").read_bytes(), steps, lines(directory / "scores.jsonl")


@pytest.fixture(scope="module")
def calm(corpus: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("calm")
    run_to_the_end(Trial(config(), corpus, directory, MILESTONES))
    return directory


def test_a_trial_leaves_a_model_records_scores_and_exposures(calm: Path, corpus: Prepared) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(calm / "model"), AutoTokenizer.from_pretrained(calm / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert torch.equal(model.lm_head.bias, model.lm_head.decoder.bias)
    assert tokenizer("the dog").input_ids[0] == 0
    final = json.loads((calm / "final.json").read_text())
    assert final["words_seen"] == lines(calm / "steps.jsonl")[-1]["words_seen"]
    assert set(final["tasks"]) == {"pairs", "dev_loss"}
    assert np.load(calm / "exposures.npy").dtype == np.uint32
    assert list((calm / "evaluation").rglob("predictions.json"))
    rows = lines(calm / "scores.jsonl")
    assert {row["words_seen"] for row in rows if row["task"] == "dev_loss"} >= {row["words_seen"] for row in rows if row["final"]}
    assert {row["task"] for row in rows if row["final"]} == {"pairs", "dev_loss"}
    assert sum(row["final"] for row in rows if row["task"] == "dev_loss") == 1


def test_the_saved_model_computes_what_the_trained_one_did(calm: Path, corpus: Prepared) -> None:
    from transformers import AutoModelForMaskedLM

    trial = Trial(config(), corpus, calm, MILESTONES)
    saved = AutoModelForMaskedLM.from_pretrained(calm / "model").eval()
    ids = torch.tensor([[0, 10, 20, 4, 30, 2]])
    with torch.no_grad():
        torch.testing.assert_close(saved(ids).logits, trial.run.network.model(ids).logits)
    trial.close()


@pytest.mark.parametrize("stop", [1, 12, 25])
def test_a_trial_interrupted_at_any_step_ends_as_the_undisturbed_one(stop: int, calm: Path, corpus: Prepared, tmp_path: Path) -> None:
    trial = Trial(config(), corpus, tmp_path, MILESTONES)
    report = trial.advance(lambda record: record.step >= stop)
    while report is not None:
        report = trial.advance(lambda record: record.step >= stop)
    trial.close()
    run_to_the_end(Trial(config(), corpus, tmp_path, MILESTONES))
    assert results(tmp_path) == results(calm)


@pytest.mark.parametrize("lost", [1, 2])
def test_what_lies_beyond_the_newest_checkpoint_is_cut_off_and_made_again(lost: int, calm: Path, corpus: Prepared, tmp_path: Path) -> None:
    trial = Trial(config(checkpoint__keep=3), corpus, tmp_path, MILESTONES)
    for _ in range(3):
        trial.advance()
    trial.close()
    for path in sorted(tmp_path.glob("checkpoint_*"), reverse=True)[:lost]:  # as if killed before it was published
        path.unlink()
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 9999, "torn')
    again = Trial(config(checkpoint__keep=3), corpus, tmp_path, MILESTONES)
    assert [report.milestone for report in again.reports] == MILESTONES[: 3 - lost]
    run_to_the_end(again)
    assert results(tmp_path) == results(calm)


def test_finishing_twice_changes_nothing(calm: Path, corpus: Prepared) -> None:
    before = {path: path.read_bytes() for path in calm.rglob("*") if path.is_file() and path.name != "config.yaml"}
    trial = Trial(config(), corpus, calm, MILESTONES)
    scores = trial.finish()
    trial.close()
    assert scores == json.loads((calm / "final.json").read_text())["tasks"]
    assert {path: path.read_bytes() for path in before} == before


def test_a_stopped_trial_is_scored_where_it_stands(corpus: Prepared, tmp_path: Path) -> None:
    trial = Trial(config(), corpus, tmp_path, MILESTONES)
    report = trial.advance()
    scores = trial.finish()
    trial.close()
    assert report is not None
    assert scores["dev_loss"] == report.metrics["dev_loss"]
    assert json.loads((tmp_path / "final.json").read_text())["words_seen"] == report.words_seen


def test_a_diverged_trial_reports_a_finite_worst_value_and_is_scored(corpus: Prepared, tmp_path: Path) -> None:
    trial = Trial(config(optimizer__learning_rate=1e20, optimizer__clip=None, optimizer__warmup=0.0), corpus, tmp_path, MILESTONES)
    report = trial.advance()
    assert report is not None
    assert report.diverged
    assert report.metrics["dev_loss"] == WORST_LOSS
    assert trial.next_milestone() is None
    scores = trial.finish()
    trial.close()
    assert all(np.isfinite(list(scores.values())))


def test_an_older_attempt_may_not_take_a_trial_back(corpus: Prepared, tmp_path: Path) -> None:
    Trial(config(), corpus, tmp_path, MILESTONES, attempt=2).close()
    with pytest.raises(RunError, match="attempt 2 has taken this trial over from attempt 1"):
        Trial(config(), corpus, tmp_path, MILESTONES, attempt=1)
    Trial(config(), corpus, tmp_path, MILESTONES, attempt=2).close()


HOLD = """
import sys
from pathlib import Path
from sleep_tune.files import locked
with locked(Path(sys.argv[1]) / "lock"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_successor_waits_for_the_lock_of_a_trial(corpus: Prepared, tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    import threading

    opened: list[float] = []
    thread = threading.Thread(target=lambda: (Trial(config(), corpus, tmp_path, MILESTONES).close(), opened.append(time.monotonic())))
    thread.start()
    thread.join(0.3)
    assert not opened
    released = time.monotonic()
    holder.stdin.write("\n")
    holder.stdin.flush()
    thread.join(60)
    assert opened
    assert opened[0] > released
    holder.wait()


def test_scoring_on_the_way_stays_within_its_share() -> None:
    milestones = list(range(100, 1001, 100))
    chosen = scored_milestones(milestones, tokens_a_word=6.0, plan_tokens=120, share=0.1)
    # training 1000 words costs 6000: 600 may be scored, five times 120
    assert chosen == {200, 400, 600, 800, 1000}
    assert scored_milestones(milestones, 6.0, 601, 0.1) == set()


def test_models_of_milestones_are_a_series_of_checkpoints(corpus: Prepared, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from sleep_tune.evaluation.checkpoint_series import find_checkpoints

    trial = Trial(config(checkpoint__milestone_models=True), corpus, tmp_path, MILESTONES)
    run_to_the_end(trial)
    kept = tmp_path / "milestones"
    assert {path.name for path in kept.iterdir()} == {"chck_500", "chck_1K", "chck_2K", "chck_3K"}
    assert [checkpoint.words_seen for checkpoint in find_checkpoints(str(kept), hub=False).values()] == MILESTONES
    AutoTokenizer.from_pretrained(kept / "chck_1K")
    early, late = (AutoModelForMaskedLM.from_pretrained(kept / name).state_dict() for name in ("chck_500", "chck_3K"))
    assert any((early[name] != late[name]).any() for name in early)


def test_a_schedule_that_ends_before_its_budget_reports_its_end_once(corpus: Prepared, tmp_path: Path) -> None:
    trial = Trial(
        config(sleep__passes=1, sleep__folds=1, sleep__length={"repeats": 0.1}, budget_words=30_000),
        corpus,
        tmp_path,
        range(1000, 30_001, 1000),
    )
    run_to_the_end(trial)
    words = [report.words_seen for report in trial.reports]
    assert len(words) == len(set(words))
    assert words[-1] < 10_000


def test_a_finished_trial_is_scored_anew_where_other_scores_are_asked_for(corpus: Prepared, tmp_path: Path) -> None:
    run_to_the_end(Trial(config(), corpus, tmp_path, MILESTONES))
    again = Trial(config(evaluation__final__items_per_uid=3), corpus, tmp_path, MILESTONES)
    again.finish()
    again.close()
    final = [row for row in lines(tmp_path / "scores.jsonl") if row["final"] and row["task"] == "pairs"]
    assert {row["n"] for row in final} == {3}
    assert len({row["uid"] for row in final}) == len(final)


def test_a_worker_whose_trial_was_taken_over_publishes_no_more(corpus: Prepared, tmp_path: Path) -> None:
    trial = Trial(config(), corpus, tmp_path, MILESTONES, attempt=1)
    trial.advance()
    before = sorted(path.name for path in tmp_path.glob("checkpoint_*"))
    (tmp_path / "attempt").write_text("2\n")  # as on a shared disk whose lock did not reach this worker
    with pytest.raises(RunError, match="attempt 2 has taken this trial over"):
        trial.advance()
    trial.close()
    assert sorted(path.name for path in tmp_path.glob("checkpoint_*")) == before


def test_a_report_is_told_when_its_checkpoint_is_durable(corpus: Prepared, tmp_path: Path) -> None:
    trial = Trial(config(), corpus, tmp_path, MILESTONES)
    for wait in (True, False, True):
        trial.advance(wait=wait)
        if not wait:
            trial.settle()
        assert sorted(tmp_path.glob("checkpoint_*"))[-1].name == f"checkpoint_{trial.state.step:09d}"
        assert lines(tmp_path / "steps.jsonl")[-1]["step"] == trial.state.step
    trial.close()


def test_a_trial_killed_between_milestones_goes_on_from_a_checkpoint_by_the_clock(calm: Path, corpus: Prepared, tmp_path: Path) -> None:
    asked = config(checkpoint__every_s=1e-3)
    trial = Trial(asked, corpus, tmp_path, MILESTONES[-1:])

    def slowly(record: object) -> bool:
        time.sleep(0.02)
        if len(list(tmp_path.glob("checkpoint_*"))) >= 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        trial.advance(slowly)
    trial.close()
    again = Trial(asked, corpus, tmp_path, MILESTONES)
    assert not again.reports
    assert again.state.step > 0
    run_to_the_end(again)
    assert results(tmp_path)[:3] == results(calm)[:3]


def test_instruments_count_over_all_processes_of_a_trial(corpus: Prepared, tmp_path: Path) -> None:
    while (trial := Trial(config(), corpus, tmp_path, MILESTONES)).next_milestone() is not None:
        trial.advance()
        trial.close()
    trial.finish()
    trial.close()
    rows, steps = lines(tmp_path / "meters.jsonl"), lines(tmp_path / "steps.jsonl")
    assert [row["words_seen"] for row in rows] == [report.words_seen for report in trial.reports]
    assert all(one[f"{part}_s"] <= other[f"{part}_s"] for one, other in itertools.pairwise(rows) for part in PARTS)
    final = json.loads((tmp_path / "final.json").read_text())["meters"]
    assert (final["tokens"], final["steps"]) == (sum(row["tokens"] for row in steps), len(steps))
    assert final["wake_s"] + final["sleep_s"] >= 0.9 * sum(row["wall_s"] for row in steps)
    assert final["evaluation_s"] >= rows[-1]["evaluation_s"] > 0
    assert 0 < final["utilisation"] < 1.5
    assert final["peak_bytes"] > 100 << 20


@pytest.mark.parametrize("schedule", [{}, {"sleep.homeostasis": {"importance": "fisher"}, "sleep.criterion": {"utility": {"k": 5}}}])
def test_a_closed_trial_leaves_no_memory_to_the_next_one_in_its_process(schedule: dict, corpus: Prepared, tmp_path: Path) -> None:
    trial = Trial(config(**schedule), corpus, tmp_path / "trial", MILESTONES)
    gone = weakref.ref(trial.run.network)
    gc.disable()  # tensors weigh nothing to the collector: it would come too late
    try:
        run_to_the_end(trial)
        del trial
        assert gone() is None
    finally:
        gc.enable()


def test_what_a_waking_did_to_the_network_is_in_the_records_of_the_cycle_after_it(corpus: Prepared, tmp_path: Path) -> None:
    fields = {"sleep.homeostasis": {"importance": "magnitude"}, "sleep.freezing": {"choice": "random", "warmup": 0.0}}
    trial = Trial(config(**fields, **{"sleep.length": {"ratio": 1}}), corpus, tmp_path / "trial", MILESTONES)
    run_to_the_end(trial)
    cycles = lines(tmp_path / "trial" / "cycles.jsonl")
    assert len(cycles) >= 3
    assert (cycles[0]["frozen_units"], cycles[0]["shrunk_weights"]) == (0, 0)
    assert all(after["frozen_units"] >= before["frozen_units"] for before, after in pairwise(cycles))
    assert cycles[1]["frozen_units"] > 0
    assert all(0 < cycle["shrunk_weights"] < trial.run.network.flat.numel() for cycle in cycles[1:])
