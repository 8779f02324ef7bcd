"""The gradient of a batch computed in parts against the whole one."""

import numpy as np
import pytest
import torch

from sleep_tune.data.token_store import open_store
from sleep_tune.errors import UserError
from sleep_tune.streams import stream
from sleep_tune.training.descent import descend
from sleep_tune.training.loop import Run, advance, next_rows
from sleep_tune.training.objectives import label_rows

CPU = torch.device("cpu")
SLEEPY = {"sleep__folds": 4, "sleep__criterion": "gain", "sleep__homeostasis": {"importance": "fisher", "shrink": 0.9}}


def start(micro, corpus, parts, *presets, **fields):
    run = Run(micro(*(presets or ("default",)), training__accumulation=parts, **fields), open_store(corpus.directory), CPU)
    return run, run.new_state()


def first_batch(run, state):
    return label_rows(next_rows(run, state), run.config, 0.0, run.store.vocab_size, stream(0, "mask"), CPU)


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_parts_give_the_gradient_the_gains_and_the_fisher_information_of_the_whole(micro, corpus, parts):
    found = []
    for count in (1, parts):
        run, state = start(micro, corpus, count, **SLEEPY)
        loss, gain_B = descend(run, state, first_batch(run, state))
        found.append((loss, gain_B, run.network.flat.grad.clone(), state.importance_P.clone()))
    (loss, gain_B, grad_P, squares_P), (own, own_B, own_P, own_squares_P) = found
    assert own == pytest.approx(loss, abs=1e-6)
    assert squares_P.sum() > 0
    torch.testing.assert_close(own_B, gain_B, rtol=1e-4, atol=0)
    torch.testing.assert_close(own_P, grad_P, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(own_squares_P, squares_P, rtol=1e-4, atol=1e-9)


def test_a_run_in_parts_learns_the_same(micro, corpus):
    whole, whole_state = start(micro, corpus, 1, "epochs")
    losses = [record.loss for record in advance(whole, whole_state, 1500)]
    run, state = start(micro, corpus, 3, "epochs")
    np.testing.assert_allclose([record.loss for record in advance(run, state, 1500)], losses, rtol=2e-3)


def test_a_loss_that_is_not_finite_ends_the_run_in_parts_too(micro, corpus):
    run, state = start(micro, corpus, 3, **SLEEPY)
    with torch.no_grad():
        run.network.leaves["head.weight"].fill_(torch.nan)
    assert list(advance(run, state, 1500)) == []
    assert state.diverged


def test_more_parts_than_rows_are_refused(micro):
    with pytest.raises(UserError, match=r"training\.accumulation.*17.*batch_rows = 16"):
        micro("epochs", training__accumulation=17)
