"""Training on several workers: the same batches, and after every step the same state on all of them, as one worker has it within noise."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sleep_tune
from sleep_tune.data.token_store import open_store
from sleep_tune.errors import UserError
from sleep_tune.sleep.context import sample_rows
from sleep_tune.streams import stream
from sleep_tune.training.loop import Run
from sleep_tune.training.models import losses
from sleep_tune.training.objectives import label_rows
from sleep_tune.training.parallel import part_of
from sleep_tune.training.row_gradients import RowGradients

RANK = Path(__file__).with_name("rank.py")
STATE = ("flat", "moments", "importance", "exposures_N", "measured_F", "frozen_U", "buffers", "where", "loss")
EXACT = ("where", "exposures_N", "buffers", "frozen_U")  # a function of the schedule, and of scores by their order

# batches of 7: the last one of a phase has fewer rows than that, some a single one
CASES = {
    "losses": (
        "weighted_replay",
        {
            "sleep__folds": 4,
            "sleep__length": {"ratio": 1},
            "sleep__rescore": {"share": 0.5},
            "sleep__homeostasis": {"importance": "fisher", "fisher_batches": 5},
            "sleep__freezing": {"choice": "random", "warmup": 0.0},
        },
    ),
    "gains": (
        "default",
        {
            "sleep__folds": 3,
            "sleep__length": {"repeats": 2},
            "sleep__context": None,
            "sleep__criterion": {"utility": {"k": 5}},
            "sleep__rescore": "all",
            "sleep__homeostasis": {"importance": "taylor_abs", "score_samples": 20},
            "sleep__freezing": {"choice": "causal", "warmup": 0.0},
        },
    ),
    "left_to_right": ("epochs", {"model__name": "gpt2_tiny", "objective": "clm", "model__dropout": 0.0, "optimizer__weight_decay": 0.01}),
}


@pytest.fixture
def batch(micro, corpus):
    """A run, and seven of its rows, labelled."""
    run = Run(micro("epochs"), open_store(corpus.directory), torch.device("cpu"))
    rows = sample_rows(run.store, np.array([3, 50, 9, 200, 17, 90, 5]))
    return run.network, label_rows(rows, run.config, 0.0, run.store.vocab_size, stream(0, "mask", 1), run.device)


def part_results(network, batch):
    """Gradient of the token mean, losses and gains of the rows, sum of their squared gradients."""
    network.flat.grad.zero_()
    squares_P = torch.zeros_like(network.flat)
    with RowGradients(network, batch, True, squares_P) as seen:
        loss, loss_B = losses(network, batch)
        loss.backward()
    return loss.item(), network.flat.grad.clone(), loss_B, seen.gain_B(), squares_P


@pytest.mark.parametrize("size", [1, 2, 3, 7, 9])
def test_the_parts_of_a_batch_add_up_to_it(batch, size):
    network, whole = batch
    loss, grad_P, loss_B, gain_B, squares_P = part_results(network, whole)
    parts = [part_of(whole, rank, size) for rank in range(size)]
    assert [row for part in parts for row in range(part.first, part.last)] == list(range(7))
    assert max(part.last - part.first for part in parts) - min(part.last - part.first for part in parts) <= 1
    assert sum(part.weight for part in parts) == pytest.approx(1)
    found = [(part, part_results(network, part.rows)) for part in parts]
    assert sum(part.weight * each[0] for part, each in found) == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(sum(part.weight * each[1] for part, each in found), grad_P, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(sum(each[4] for part, each in found if part.counts), squares_P, rtol=1e-4, atol=1e-8)
    for part, each in found:
        own = slice(part.first, part.last)
        torch.testing.assert_close(each[2][: part.last - part.first], loss_B[own])
        torch.testing.assert_close(each[3][: part.last - part.first], gain_B[own], rtol=1e-4, atol=1e-8)


def test_a_part_without_labels_counts_nothing(micro, corpus, batch):
    network, _ = batch
    tokens_BL = np.full((2, 4), 1)
    tokens_BL[0] = [0, 20, 30, 2]
    tokens_BL[1, :2] = [0, 2]
    from sleep_tune.sleep.context import Rows

    rows = Rows(tokens_BL, np.array([4, 2]), np.array([2, 0]), None)
    whole = label_rows(rows, micro("epochs"), 0.0, 400, stream(0, "mask", 1), torch.device("cpu"))
    part = part_of(whole, 1, 2)
    assert part.weight == 0
    loss, grad_P, _, gain_B, squares_P = part_results(network, part.rows)
    assert loss == 0
    assert not grad_P.any()
    assert not gain_B.any()
    assert not squares_P.any()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"resources__workers": 0}, "resources.workers = 0: must be a whole number >= 1"),
        ({"resources__workers": 5, "training__batch_rows": 4}, "resources.workers = 5: must be <= training.batch_rows = 4"),
        ({"resources__workers": 2, "resources__gpus": 1.0}, "resources.workers = 2: needs resources.gpus = 0 or 2, not 1"),
    ],
)
def test_workers_that_cannot_be_are_refused(micro, fields, line):
    with pytest.raises(UserError, match=line.replace(".", r"\.")):
        micro("epochs", **fields)


@pytest.fixture(scope="module")
def one():
    """The job of a single worker, in this process."""
    spec = importlib.util.spec_from_file_location("rank", RANK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.do


def train_together(folder, jobs, store, size=2):
    """Results of `jobs` by name, a row for each of `size` workers."""
    (folder / "jobs.json").write_text(json.dumps({"store": str(store), "jobs": jobs}))
    root = Path(sleep_tune.__file__).parents[1]
    command = [sys.executable, "-m", "tests.training.rank"]
    ranks = [
        subprocess.Popen([*command, str(rank), str(size), str(folder)], stderr=subprocess.PIPE, text=True, cwd=root) for rank in range(size)
    ]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), said
    return {name: [np.load(folder / f"{name}.{rank}.npz") for rank in range(size)] for name in jobs}


@pytest.fixture(scope="module")
def together(micro, corpus, one, tmp_path_factory):
    """What one worker came to, and two, calm and from checkpoints of two or one."""
    folder = tmp_path_factory.mktemp("together")
    jobs, alone = {}, {}
    for name, (schedule, fields) in CASES.items():
        told = micro(schedule, budget=3000, training__batch_rows=7, **fields).model_dump(mode="json")
        alone[name] = one({"config": told, "stop": 30, "save": str(folder / f"{name}_of_one")}, corpus.directory, None)
        jobs[name] = {"config": told, "stop": 30, "save": str(folder / f"{name}_of_two")}
        jobs[f"{name}_resumed"] = {"config": told, "resume": str(folder / f"{name}_of_two")}
        jobs[f"{name}_from_one"] = {"config": told, "resume": str(folder / f"{name}_of_one")}
    dropping = micro("weighted_replay", budget=2000, sleep__folds=4, model__dropout=0.2).model_dump(mode="json")
    jobs["dropout"] = {"config": dropping, "stop": 20, "save": str(folder / "dropping")}
    jobs["dropout_resumed"] = {"config": dropping, "resume": str(folder / "dropping")}
    broken = micro("epochs", optimizer__learning_rate=1e20, optimizer__clip=None, optimizer__warmup=0.0).model_dump(mode="json")
    jobs["diverges"] = {"config": broken}
    alone["diverges"] = one(jobs["diverges"], corpus.directory, None)
    jobs["drifts"] = {"config": micro("default", budget=2000, sleep__folds=9).model_dump(mode="json"), "nudge": 3}
    return alone, train_together(folder, jobs, corpus.directory), {name: folder / f"{name}_of_two" for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_two_workers_train_as_one_does_and_hold_the_same_state(together, name):
    alone, jobs, _ = together
    first, second = jobs[name]
    for field in (*STATE, *(field for field in first.files if field.startswith("candidates_"))):
        assert first[field].tobytes() == second[field].tobytes(), field
    for field in EXACT:
        assert np.array_equal(first[field], alone[name][field]), field
    assert first["loss"].size > 60
    np.testing.assert_allclose(first["loss"], alone[name]["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(first["measured_F"], alone[name]["measured_F"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(first["importance"], alone[name]["importance"], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("name", [*CASES, "dropout"])
def test_as_many_workers_go_on_to_the_bit(together, name):
    _, jobs, _ = together
    calm, resumed = jobs[name][0], jobs[f"{name}_resumed"][0]
    rest = resumed["loss"].size
    assert 0 < rest < calm["loss"].size
    for field in ("loss", "where"):
        assert np.array_equal(calm[field][-rest:], resumed[field]), field
    for field in ("flat", "moments", "importance", "exposures_N", "measured_F", "frozen_U"):
        assert np.array_equal(calm[field], resumed[field]), field


@pytest.mark.parametrize("name", CASES)
def test_another_number_of_workers_goes_on_with_the_same_schedule(micro, corpus, one, together, name):
    alone, jobs, saved = together
    schedule, fields = CASES[name]
    told = micro(schedule, budget=3000, training__batch_rows=7, **fields).model_dump(mode="json")
    from_two = one({"config": told, "resume": str(saved[name])}, corpus.directory, None)
    for resumed in (from_two, jobs[f"{name}_from_one"][0]):
        rest = resumed["loss"].size
        assert np.array_equal(resumed["where"], alone[name]["where"][-rest:])
        np.testing.assert_allclose(resumed["loss"], alone[name]["loss"][-rest:], rtol=0, atol=1e-5)
        assert np.array_equal(resumed["exposures_N"], alone[name]["exposures_N"])


def test_two_workers_have_dropout_of_their_own(together):
    _, jobs, _ = together
    assert np.array_equal(jobs["dropout"][0]["flat"], jobs["dropout"][1]["flat"])


def test_a_loss_that_is_not_finite_ends_the_run_on_every_worker(together):
    alone, jobs, _ = together
    for each in (*jobs["diverges"], alone["diverges"]):
        assert each["diverged"]
        assert each["where"].shape == alone["diverges"]["where"].shape


def test_workers_whose_weights_differ_are_found_out(together):
    _, jobs, _ = together
    for each in jobs["drifts"]:
        assert "compute differently" in str(each["said"])
        assert each["loss"].size >= 3
