"""`--tasks all`, and docs/evaluation.md against the code that it describes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sleep_tune.errors import UserError
from sleep_tune.evaluation.__main__ import main
from sleep_tune.evaluation.averages import KINDS
from sleep_tune.evaluation.finetune_settings import GLUE
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.tasks import TASKS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
THERE = ["blimp", "supplement", "entity_tracking", "wug_adj", "wug_past", "reading"]


def test_all_scores_every_task_there_is_data_for_and_says_what_is_missing(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = shared_data / "official_reference" / "model", shared_data / "evaluation_data"
    command = [str(model), "--data", str(data), "--tasks", "all", "--items-per-uid", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores["tasks"]) == THERE
    assert {task: scores["tasks"][task]["uids"] for task in THERE} == dict(zip(THERE, (67, 5, 18, 1, 1, 2), strict=True))
    for note in ("missing ewok (full_eval/ewok_filtered), comps (full_eval/comps); found", "aoa: not defined for", "glue: fine-tuned only"):
        assert any(note in line for line in scores["notes"]), note
    shown = capsys.readouterr().out
    assert re.search(r"reading +full +2 +1726 ", shown)  # the words of its table, once
    assert "6 of 10  blimp, supplement, entity_tracking, reading, wug_adj, wug_past" in re.sub(" {3,}", "  ", shown)
    assert "missing, not counted: ewok, comps, glue, aoa" in shown


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("full_eval/blimp_filtered", "one task's data: name the task"),
        ("nowhere", "no such file or directory"),
        ("empty", "missing blimp .*found no task"),
    ],
)
def test_all_of_nothing_and_of_one_task_are_refused(place: str, message: str, shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    data = (tmp_path if place == "empty" else shared_data / "evaluation_data") / place
    with pytest.raises(UserError, match=message):
        main([str(shared_data / "official_reference" / "model"), "--data", str(data), "--tasks", "all", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def rows(title: str) -> Iterator[list[str]]:
    """The cells of the table below a title of the page, less its head."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    yield from ([cell.strip("` ") for cell in line] for line in table[2:])


def test_the_page_has_every_task_with_its_directories() -> None:
    table = {cells[0]: cells for cells in rows("Tasks")}
    assert list(table) == [*(name for name in TASKS if name != "pairs"), "glue"]
    for name, cells in table.items():
        assert name == "glue" or TASKS[name].full in cells[1]


def test_the_page_has_every_rule_set_with_what_it_reproduces() -> None:
    table = {cells[0]: cells[1] for cells in rows("Rules")}
    assert list(table) == list(RULES)
    for name, commit in table.items():
        assert RULES[name].reproduces.split(",")[0] in commit


def test_the_page_has_every_average_and_the_settings_of_every_fine_tuned_task() -> None:
    assert {cells[0] for cells in rows("Averages")} == {*(kind.name for kind in KINDS), "Findings"}
    table = {cells[0]: cells[1:] for cells in rows("Fine-tuning")}
    assert list(table) == list(GLUE)
    for name, (labels, batch, epochs, selection, score, valid, train) in table.items():
        task = GLUE[name]
        assert [int(labels), int(batch), int(epochs)] == [task.labels, task.batch_rows, task.epochs]
        assert (selection, score) == (task.selection, task.score)
        counts = [valid.replace(",", ""), train.replace(",", "")]
        assert counts == [str(task.valid_rows), "?" if task.train_rows is None else str(task.train_rows)]


def test_options_named_in_the_page_and_the_readme_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    known = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
    for text in (PAGE, (ROOT / "README.md").read_text()):
        for command in re.findall(r"python -m sleep_tune\.evaluation (?!\.).*", text):
            assert set(re.findall(r"--[a-z0-9-]+", command.split("`")[0])) <= known, command
