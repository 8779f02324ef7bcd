"""Presets, YAML as users write it, and what overrides what."""

import pytest

from sleep_tune.config import load_config
from sleep_tune.errors import UserError
from sleep_tune.presets import combine, parse_set, presets, read_yaml, set_field

PROFILES = [name for name, row in presets().items() if row["kind"] == "profile"]
SCHEDULES = [name for name, row in presets().items() if row["kind"] == "schedule"]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_profile_goes_with_every_schedule(profile: str, schedule: str) -> None:
    config = load_config(combine([schedule, profile]))
    assert (config.sleep is None) != (config.epochs is None)


def with_set(*texts: str, names: tuple[str, ...] = ("tiny", "weighted_replay")):
    raw = combine(names)
    for text in texts:
        raw = set_field(raw, *parse_set(text))
    return load_config(raw)


def test_words_that_older_yaml_takes_for_truth_values_stay_words_and_numbers_are_numbers() -> None:
    assert with_set("tracking.wandb=off").tracking.wandb == "off"
    assert with_set("optimizer.learning_rate=1e-3").optimizer.learning_rate == 0.001
    assert with_set("evaluation.rules=2025").evaluation.rules == "2025"
    assert with_set("tracking.tensorboard=false").tracking.tensorboard is False


def test_a_part_of_a_kind_replaces_the_kind_and_sleep_leaves_epochs_alone() -> None:
    assert with_set("sleep.length.repeats=2").sleep.length.model_dump() == {"repeats": 2.0}
    assert with_set("sleep.folds=3", names=("tiny", "epochs")).sleep is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sleep.replay_ratio=1.5", "sleep.replay_ratio = 1.5: must be in (0, 1]"),
        ("sleep.replay_ration=0.2", "unknown field sleep.replay_ration (did you mean sleep.replay_ratio?)"),
        ("sleep.replay_ratio=lots", "sleep.replay_ratio = lots: must be in (0, 1]"),
        ("sleep.folds=1.5", "sleep.folds = 1.5: must be a whole number >= 1"),
        ("sleep.strategy=stricct", "sleep.strategy = stricct: unknown (did you mean strict?)"),
        ("sleep.strategy={weighted: {temp: 1}}", "weighted.temp: unknown parameter (allowed: temperature)"),
        ("sleep.length={rato: 3}", "(did you mean ratio?)"),
        ("sleep.rescore.share=2", "sleep.rescore.share = 2: must be in (0, 1]"),
        ("sleep.update_in_sleep=true", "needs sleep.context = null"),
        ("masking.split=[.1,.2]", "masking.split = [0.1, 0.2]: must be a list of 3, each in [0, 1]"),
        ("model.name=robert", "model.name = robert: unknown model (did you mean roberta_pln?)"),
        ("model.width=65", "model.heads = 4: must divide model.width = 65"),
        ("evaluation.final.tasks=[blim]", "unknown task blim (did you mean blimp?)"),
        ("evaluation.final.tasks=[[a]]", "unknown task ['a']"),
        ("data.row_length=600", "data.row_length = 600: must be <= 510"),
        ("seed=18446744073709551616", "seed"),
        ("data.words=!!int abc", "broken YAML"),
        ("data.words=2020-13-45", "data.words = 2020-13-45: must be a whole number >= 1 or null"),
        ("sleep={1: 2}", "field names must be text"),
        ("nonsense", "must be field=value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_value_and_what_is_allowed(text: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        with_set("sleep.context.shuffles=3", text)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1", "f.yaml, line 2: broken YAML"),
        ("a: 1\na: 2", "a is given twice"),
        ("a: !!python/object:x {}", "broken YAML"),
        ("\x00", "broken YAML"),
    ],
)
def test_broken_yaml_is_one_line_with_its_place(text: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        read_yaml(text, "f.yaml")
    assert line in str(caught.value) or ("line" in line and "broken YAML" in str(caught.value))
