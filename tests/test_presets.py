"""Presets, YAML as users write it, and what overrides what."""

import re

import pytest

from sleep_tune.config import load_config
from sleep_tune.errors import UserError
from sleep_tune.presets import combine, parse_set, presets, read_yaml, set_field, write_yaml
from sleep_tune.training.registry import MODELS

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
        ("evaluation.final.tasks=blimp,reading", "evaluation.final.tasks = blimp,reading: must be a list, each text: [blimp,reading]"),
        ("optimizer.betas=abc", "optimizer.betas = abc: must be a list of 2, each in [0, 1)"),
        ("masking.split=[.1,.2]", "masking.split = [0.1, 0.2]: must be a list of 3, each in [0, 1]"),
        ("model.name=robert", "model.name = robert: unknown model (did you mean roberta_pln?)"),
        ("model.width=65", "model.heads = 4: must divide model.width = 65"),
        ("evaluation.final.tasks=[blim]", "unknown task blim (did you mean blimp?)"),
        ("evaluation.final.tasks=[aoa]", "aoa is scored by python -m sleep_tune.evaluation, not by a study"),
        ("evaluation.final.tasks=[blimp, rte]", "rte is scored by python -m sleep_tune.evaluation, not by a study"),
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


@pytest.mark.parametrize("name", ["roberta_pln", "roberta_pln_medium", "gpt2"])
def test_a_model_that_is_named_has_its_own_sizes_and_those_set_beside_it(name: str) -> None:
    raw = set_field(set_field(combine(["tiny", "epochs"]), "model.name", name), "model.heads", 2)
    raw = set_field(raw, "objective", MODELS[name].objectives[0])
    if name != "roberta_pln":  # the profile's own keeps its sizes
        assert {field: value for field, value in load_config(raw).model.model_dump().items() if field in MODELS[name].sizes} == {
            **MODELS[name].sizes, "heads": 2,
        }  # fmt: skip
    else:
        assert load_config(raw).model.layers == 2


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("masking.rate", {"linear": [0.1, 0.2, 0.3]}, "masking.rate.linear = [0.1, 0.2, 0.3]: must be a list of 2, each in (0, 1]"),
        ("masking.rate", {"linear": 0.2}, "masking.rate.linear = 0.2: must be a list of 2, each in (0, 1]"),
        ("masking.rate", {"lin": 2}, "unknown field masking.rate.lin (did you mean masking.rate.linear?)"),
        ("masking.rate", 0, "masking.rate = 0: must be a number in (0, 1] or {linear: …}"),
        ("sleep.length", {"ratio": 1e308}, "sleep.length.ratio = 1e+308: must be in [0, 1000000.0]"),
        (
            "sleep.length",
            {"loss_threshold": {"value": 2.0, "max_steps": 10, "min_steps": 5}},
            "sleep.length.loss_threshold.max_steps = 10: must be >= window = 20, or the loss decides nothing",
        ),
        (
            "sleep.homeostasis",
            {"importance": "magnitude", "fisher_batches": 3},
            "sleep.homeostasis.fisher_batches = 3: is read by importance fisher only, not by magnitude",
        ),
        ("sleep.homeostasis", {"importance": "fishr"}, "did you mean fisher?"),
        ("sleep.freezing", {"choice": "causal", "ceiling": 1.5}, "sleep.freezing.ceiling = 1.5: must be in (0, 1]"),
        ("sleep.criterion", {"need": 3}, "need takes {k: …, layers: …, among: …}"),
        ("sleep.criterion", {"utility": {"k": 0}}, "utility.k: must be a whole number >= 1"),
        ("sleep.criterion", {"need": {"layers": 3}}, "sleep.criterion.need.layers = 3: must be <= model.layers = 2"),
        ("sleep.criterion", "utilty", "did you mean utility?"),
        ("sleep.max_selections", 70_000, "sleep.max_selections = 70000: must be a whole number in [1, 65535] or null"),
        ("objective", "clm", "model.name = roberta_pln is trained by mlm (for clm: gpt2, gpt2_tiny)"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(field: str, value: object, line: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config(set_field(combine(["tiny", "default"]), field, value))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"sleep.update_in_sleep": True, "sleep.context": None, "sleep.criterion": "gain"},
            "sleep.update_in_sleep = true: needs sleep.criterion = loss",
        ),
        ({"sleep.update_in_sleep": True}, "sleep.update_in_sleep = true: needs sleep.context = null"),
        ({"sleep.rescore": {"share": 0.5}, "sleep.criterion": "utility"}, "sleep.rescore = {share: 0.5}: needs sleep.criterion = loss"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, object], line: str) -> None:
    raw = combine(["tiny", "default"])
    for field, value in fields.items():
        raw = set_field(raw, field, value)
    with pytest.raises(UserError, match=re.escape(line)):
        load_config(raw)


def test_what_looks_like_a_number_is_written_as_the_text_it_is() -> None:
    for value in ("12345678e901", "1e5", "0123", "on", 1e-5):
        assert read_yaml(write_yaml({"field": value}), "here") == {"field": value}
    assert parse_set("epochs.matched_to=12345678e901") == ("epochs.matched_to", "12345678e901")
