"""Matched controls: the words, the unique words and the steps of another trial, whatever its batches held; and what cannot be matched."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.config import Config, load_config
from sleep_tune.errors import RunError, UserError
from sleep_tune.matching import read_match
from sleep_tune.presets import combine, set_field, write_yaml
from sleep_tune.sleep.matched import MatchedPlan, MatchedRows


def run(plan: MatchedPlan, words_N: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """The batches of a whole control."""
    rows, row, words, batches = MatchedRows(plan, words_N, seed), 0, 0, []
    while (ids_B := rows.take(len(batches), row, words)).size:
        row, words = row + ids_B.size, words + int(words_N[ids_B].sum())
        batches.append(ids_B)
    return batches


def plan(ids: list[int], words_after: list[int]) -> MatchedPlan:
    return MatchedPlan(np.array(ids, np.int64), np.array(words_after, np.int64))


def test_a_control_by_hand() -> None:
    # rows of two words; the other trial saw 5, 6, 6, 11 and 20 words after its steps: rows that fit below 5, 6, (one at least), 11, 20
    batches = run(plan([1, 2, 5], [5, 6, 6, 11, 20]), np.full(7, 2))
    assert [batch.size for batch in batches] == [2, 1, 1, 1, 5]
    read = np.concatenate(batches)
    assert [sorted(read[at : at + 3].tolist()) for at in (0, 3, 6)] == [[1, 2, 5]] * 3
    assert read.size == 10


def test_samples_without_words_do_not_hang_it() -> None:
    assert [batch.size for batch in run(plan([0, 1], [5, 5]), np.zeros(2, int))] == [2, 2]


def test_each_pass_is_a_permutation_of_its_own_and_the_seed_decides() -> None:
    words_N = np.ones(50, int)
    order = np.concatenate(run(plan(list(range(50)), [150]), words_N))
    passes = order.reshape(3, 50)
    assert all(sorted(one) == list(range(50)) for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) == 3
    assert order.tolist() == np.concatenate(run(plan(list(range(50)), [60, 150]), words_N)).tolist()  # however it is cut
    assert order.tolist() != np.concatenate(run(plan(list(range(50)), [150]), words_N, seed=1)).tolist()


@given(
    words=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=20),
    seed=st.integers(0, 9),
)
def test_after_every_step_the_words_are_the_others_to_a_row(words: list[int], steps: list[int], seed: int) -> None:
    words_N, after_T = np.array(words), np.cumsum(steps)
    batches = run(MatchedPlan(np.arange(len(words)), after_T), words_N, seed)
    assert len(batches) == len(steps)
    order = np.concatenate([*batches, *(np.empty(0, int),)])
    following = np.concatenate([order, MatchedRows(MatchedPlan(np.arange(len(words)), after_T), words_N, seed).take(0, order.size, 0)[:1]])
    seen, row = 0, 0
    for ids_B, limit in zip(batches, after_T, strict=True):
        before, seen, row = seen, seen + int(words_N[ids_B].sum()), row + ids_B.size
        assert seen <= limit or ids_B.size == 1  # at least one
        assert seen + words_N[following[row]] > limit or (ids_B.size == 1 and before > limit)
    if after_T[-1] >= words_N.sum():
        assert set(order.tolist()) >= set(np.flatnonzero(words_N))  # the same unique words


@given(words=st.lists(st.integers(1, 9), min_size=1, max_size=12), steps=st.lists(st.integers(1, 60), min_size=1, max_size=9))
def test_a_control_stopped_anywhere_goes_on_with_the_same_rows(words: list[int], steps: list[int]) -> None:
    words_N, asked = np.array(words), MatchedPlan(np.arange(len(words)), np.cumsum(steps))
    batches = run(asked, words_N)
    row = seen = 0
    for step, ids_B in enumerate(batches):
        fresh = MatchedRows(asked, words_N, 0)
        assert fresh.take(step, row, seen).tolist() == ids_B.tolist()
        assert fresh.cycle(row) == row // len(words)
        row, seen = row + ids_B.size, seen + int(words_N[ids_B].sum())


def test_a_plan_is_known_by_its_digest() -> None:
    assert plan([1, 2], [5, 9]).digest == MatchedPlan(np.array([1, 2], np.int32), np.array([5, 9], np.int32)).digest
    assert len({plan([1, 2], [5, 9]).digest, plan([1], [2, 5, 9]).digest, plan([1, 2], [5, 8]).digest}) == 3


# The other trial's files.


def config(*presets: str, **fields: Any) -> Config:
    raw = combine(["tiny", *presets])
    for name, value in fields.items():
        raw = set_field(raw, name.replace("__", "."), value)
    return load_config(raw)


CONTROL = config("epochs", epochs__matched_to="strict")


def left(directory: Path, trial: Config, final: dict[str, Any] | None, words: tuple[int, ...] = (90, 170, 262)) -> Path:
    """A trial's directory as `trial.py` leaves it; 2 of 5 samples were never woken."""
    directory.mkdir()
    (directory / "config.yaml").write_text(write_yaml(trial.model_dump(mode="json")))
    lines = [json.dumps({"step": step, "words_seen": seen, "loss": 3.0}) for step, seen in enumerate(words, start=1)]
    (directory / "steps.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if final is not None:
        np.save(directory / "exposures.npy", np.array([3, 0, 1, 7, 0], np.uint32))
        (directory / "final.json").write_text(json.dumps(final))
    return directory


DONE = {"words_seen": 262, "tasks": {}}


def test_a_plan_is_what_the_other_trial_left(tmp_path: Path) -> None:
    read = read_match(left(tmp_path / "strict", config("strict_replay"), DONE), CONTROL, 5)
    assert read.ids_n.tolist() == [0, 2, 3]
    assert read.words_after_T.tolist() == [90, 170, 262]


@pytest.mark.parametrize(
    ("trial", "final", "line"),
    [
        (config("strict_replay"), None, "the trial {directory} is not finished: only a complete one has a control"),
        (config("strict_replay"), {**DONE, "diverged": True}, "the trial {directory} diverged: only a complete one has a control"),
        (config("epochs"), DONE, "does not sleep, so there is nothing to match"),
        (
            config("strict_replay", optimizer__learning_rate=0.5),
            DONE,
            "optimizer.learning_rate = 0.5 there, 0.003 here: a control differs in its schedule alone",
        ),
        (config("strict_replay", seed=3), DONE, "seed = 3 there, 0 here: a control differs in its schedule alone"),
    ],
)
def test_what_cannot_be_matched_is_one_line(trial: Config, final: dict[str, Any] | None, line: str, tmp_path: Path) -> None:
    directory = left(tmp_path / "strict", trial, final)
    with pytest.raises(UserError) as refused:
        read_match(directory, CONTROL, 5)
    assert str(refused.value) == "epochs.matched_to = strict: " + line.format(directory=directory)


def test_a_trial_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    left(tmp_path / "strict", config("strict_replay"), DONE)
    with pytest.raises(UserError) as refused:
        read_match(tmp_path / "strit", CONTROL, 5)
    assert str(refused.value) == f"epochs.matched_to = strit: there is no trial {tmp_path}/strit (did you mean strict?)"


def test_another_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained on another text: 5 samples there, 6 here"):
        read_match(left(tmp_path / "strict", config("strict_replay"), DONE), CONTROL, 6)


@pytest.mark.parametrize("cut", [-2, -1])
def test_records_that_lack_a_step_are_an_error(cut: int, tmp_path: Path) -> None:
    directory = left(tmp_path / "strict", config("strict_replay"), DONE)
    lines = (directory / "steps.jsonl").read_text().splitlines(keepends=True)
    del lines[cut]
    (directory / "steps.jsonl").write_text("".join(lines))
    with pytest.raises(RunError, match="damaged"):
        read_match(directory, CONTROL, 5)


@pytest.mark.parametrize("file", ["final.json", "exposures.npy"])
def test_a_damaged_file_is_an_error_that_names_it(file: str, tmp_path: Path) -> None:
    directory = left(tmp_path / "strict", config("strict_replay"), DONE)
    content = (directory / file).read_bytes()
    (directory / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=f"{file}: damaged"):
        read_match(directory, CONTROL, 5)
