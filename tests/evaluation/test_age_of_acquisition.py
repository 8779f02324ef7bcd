"""Ages of acquisition: curves with a known crossing, series of checkpoints on disk, tables that are not as they should be."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sleep_tune.errors import UserError
from sleep_tune.evaluation.__main__ import main
from sleep_tune.evaluation.age_of_acquisition import (
    AgeResult,
    Checkpoint,
    Vocabulary,
    acquisition,
    child_age,
    joined,
    model_age,
    model_age_2026,
    sigmoid,
    words_seen,
)
from sleep_tune.evaluation.checkpoint_series import find_checkpoints, word_tokens
from sleep_tune.evaluation.evaluate import plan_items, score_plan
from sleep_tune.evaluation.official_data import available_tasks, load_items
from sleep_tune.evaluation.tasks import Item, TaskItems

MONTHS = tuple(str(month) for month in range(16, 31))
STEPS = np.array([*range(1, 10), *range(10, 101, 10)]) * 1e6  # the official checkpoints of strict-small
CHANCE = math.log2(300_000)
WORDS = {"dog": ["the", "I see a"], "doghouse": ["the"], "bark": ["dogs", " they "], "ball": ["a"], "zebra": ["the"]}


def shares(age: float) -> dict[str, float]:
    """Children's answers: half of them say the word at `age`."""
    return dict(zip(MONTHS, (float(v) for v in sigmoid(np.arange(16, 31), 1.0, 0.4, age, 0.0)), strict=True))


def threshold_crossing(surprisal: Any, chance: float, parameters: tuple[float, float, float, float]) -> float:
    """By bisection: where the sigmoid of negative surprisal is half way between chance and the lowest surprisal."""
    level, low, high = -(chance + surprisal.min()) / 2, 5.0, 9.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(np.array([middle]), *parameters)[0] < level else (low, middle)
    return low


@pytest.mark.parametrize("age", [model_age, model_age_2026])
@pytest.mark.parametrize("parameters", [(8.0, 4.0, 6.5, -13.0), (11.0, 2.0, 7.2, -14.5)])
def test_a_curve_without_noise_is_crossed_where_bisection_says(age: Any, parameters: tuple[float, float, float, float]) -> None:
    surprisal = -sigmoid(np.log10(STEPS + 1), *parameters)
    assert age(STEPS, surprisal, CHANCE) == pytest.approx(threshold_crossing(surprisal, CHANCE, parameters), abs=1e-4)


def test_a_word_that_is_never_learned_or_was_before_has_no_age() -> None:
    learned_before = -sigmoid(np.log10(STEPS + 1), 10.0, 4.0, 4.0, -13.0)
    assert model_age(STEPS, learned_before, CHANCE) is None
    assert model_age(STEPS, np.linspace(10, 14, len(STEPS)), CHANCE) is None  # forgotten
    assert model_age(STEPS[:2], np.array([9.0, 4.0]), CHANCE) is None
    assert model_age(STEPS, np.full(len(STEPS), np.nan), CHANCE) is None
    assert model_age_2026(STEPS, np.full(len(STEPS), 7.0), CHANCE) is None


def test_missing_surprisals_are_left_out_of_the_fit() -> None:
    parameters = (8.0, 4.0, 6.5, -13.0)
    surprisal = -sigmoid(np.log10(STEPS + 1), *parameters)
    holes = surprisal.copy()
    holes[[2, 7]] = np.nan
    assert model_age(STEPS, holes, CHANCE) == pytest.approx(model_age(STEPS, surprisal, CHANCE), abs=1e-4)


def test_a_childs_age_is_where_half_of_the_children_say_the_word() -> None:
    for age in (18.0, 22.5, 28.0):
        assert child_age(tuple(map(float, MONTHS)), tuple(shares(age).values())) == pytest.approx(age, abs=1e-3)
    assert child_age(tuple(map(float, MONTHS)), tuple(shares(40.0).values())) is None  # after the months asked
    assert child_age((16.0, 17.0), (0.2, 0.7)) is None
    assert child_age((), ()) is None


def test_words_learned_in_the_order_of_children_correlate_perfectly() -> None:
    parameters = [(9.0, 4.0, middle, -13.0) for middle in (6.5, 6.7, 6.9, 7.2)]
    surprisal_of = {f"word{k}": -sigmoid(np.log10(STEPS + 1), *p)[:, None].repeat(3, 1) for k, p in enumerate(parameters)}
    ages = [threshold_crossing(surprisal_of[f"word{k}"], CHANCE, p) for k, p in enumerate(parameters)]
    children = {f"word{k}": shares(20 + 5 * (age - ages[0])) for k, age in enumerate(ages)}
    surprisal_of["unasked"] = surprisal_of["word0"]
    surprisal_of["forgotten"] = surprisal_of["word0"][::-1]
    children["forgotten"] = shares(20)
    for edition, vocabulary in (("2025", None), ("2026", Vocabulary(300_000, dict.fromkeys(surprisal_of, 1)))):
        found = acquisition(STEPS, surprisal_of, children, edition, vocabulary)
        assert found.words == ("word0", "word1", "word2", "word3")
        assert (found.without_child, found.without_model) == (1, 1)
        assert found.r == pytest.approx(1.0, abs=1e-3) if edition == "2025" else found.r > 0.99
        assert found.child == pytest.approx([20 + 5 * (age - ages[0]) for age in ages], abs=1e-3)
    few = acquisition(STEPS, dict(list(surprisal_of.items())[:2]), children, "2025")
    assert (few.r, len(few.words)) == (0.0, 2)
    with pytest.raises(ValueError, match="vocabulary"):
        acquisition(STEPS, surprisal_of, children, "2026")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chck_10M", 1e7),
        ("chck_1B", 1e9),
        ("checkpoint_250000", 2.5e5),
        ("words1.5M", 1.5e6),
        ("final", None),
        ("3c8e1fcf548e", None),
        ("seed1-10M-b", None),
    ],
)
def test_words_seen_are_read_from_a_name(name: str, words: float | None) -> None:
    assert words_seen(name) == words


def _series(rules: str, r: float) -> AgeResult:
    """Eight words whose ages have correlation `r` in the model and in children, over the official checkpoints."""
    generator = np.random.default_rng(3)
    one, two = generator.normal(size=(2, 8))
    one, two = (one - one.mean()) / one.std(), two - two.mean()
    two -= one * (one @ two) / (one @ one)
    child = r * one + math.sqrt(1 - r**2) * two / two.std()
    curves = np.stack([-sigmoid(np.log10(STEPS + 1), 9.0, 4.0, 6.8 + 0.1 * z, -13.0) for z in one], axis=1)
    texts = [(f"word{k}", shares(22 + 1.5 * z)) for k, z in enumerate(child)]
    items = tuple(Item(word, 0, (f"a {word}",), (word,), {"UID": word, "context": "a"}, numbers=numbers) for word, numbers in texts)
    task = TaskItems("aoa", "cdi_childes", rules, 0, items)
    vocabulary = Vocabulary(300_000, {item.uid: 1 for item in items})
    no_I = np.zeros(len(items), bool)
    parts = [AgeResult(task, "mlm", (Checkpoint("main", 0.0),), row[None], no_I, None, False) for row in curves]
    names = [Checkpoint(f"chck_{int(step / 1e6)}M", step) for step in STEPS]
    order = np.random.default_rng(0).permutation(len(STEPS))
    return joined([parts[k] for k in order], [names[k] for k in order], vocabulary)


def test_the_score_is_pearsons_r_and_a_weak_one_counts_as_nothing_in_2026_only() -> None:
    for rules, r, score in (("honest", 0.9, 0.9), ("honest", 0.2, 0.2), ("2025", 0.2, 0.2), ("2026", 0.9, 0.9), ("2026", 0.2, 0.0)):
        result = _series(rules, r)
        [row] = result.rows
        assert row.score == pytest.approx(score, abs=0.02)
        assert (row.unit, row.n, row.nans) == ("r", 8, 0)
        assert [checkpoint.name for checkpoint in result.checkpoints][:2] == ["chck_1M", "chck_2M"]
        assert "r over 8 of 8 words and 19 checkpoints" in result.notes()[0]
        assert ("counts as 0" in " ".join(result.notes())) == (rules == "2026" and r == 0.2)


def _model(seed: int = 0, positions: int = 50) -> Any:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.RobertaConfig(vocab_size=261, max_position_embeddings=positions, pad_token_id=1, initializer_range=0.3, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.RobertaForMaskedLM(config)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small cdi_childes: `zebra` is not in the children's table."""
    folder = tmp_path / "evaluation_data" / "full_eval" / "cdi_childes"
    folder.mkdir(parents=True)
    contexts = {word: [{"context": text, "word_in_context_stats": {}} for text in texts] for word, texts in WORDS.items()}
    (folder / "cdi_childes.json").write_text(json.dumps(contexts | {"x": [{"context": "one letter"}]}))
    rows = [f"{k},{word},{','.join(map(str, shares(18 + 2 * k).values()))}" for k, word in enumerate(WORDS) if word != "zebra"]
    (folder / "cdi_human.csv").write_text("\n".join([f",word,{','.join(MONTHS)}", *rows]) + "\n")
    return tmp_path / "evaluation_data"


@pytest.fixture
def checkpoints(tmp_path: Path, tokenizer: Any) -> Path:
    folder = tmp_path / "checkpoints"
    for k, name in enumerate(("chck_1M", "chck_2M", "chck_10M", "chck_100M", "notes")):
        _model(k).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_items_are_words_in_contexts_with_the_childrens_answers(data: Path, shared_data: Path) -> None:
    [items] = load_items(data, ["aoa"], fast=False)
    assert [(item.uid, item.index) for item in items.items][:3] == [("dog", 0), ("dog", 1), ("doghouse", 0)]
    assert "x" not in {item.uid for item in items.items}
    assert items.items[3].sentences == ("dogs bark",)
    assert items.items[4].sentences == ("they bark",)
    assert items.items[4].completions == ("bark",)
    assert items.items[-1].numbers == {}
    [real] = load_items(shared_data / "evaluation_data", ["aoa"], fast=False)
    assert (len(real.items), len({item.uid for item in real.items})) == (8005, 485)  # 19 of the 504 words have no context
    assert len(real.items[0].numbers) == 15
    [few] = load_items(shared_data / "evaluation_data", ["aoa"], fast=False, items_per_uid=1)
    assert len(few.items) == 485


def test_one_checkpoint_has_surprisals_and_no_score(data: Path, tokenizer: Any) -> None:
    items = load_items(data, ["aoa"], fast=False)
    model = _model().eval()
    [result] = score_plan(model, plan_items(tokenizer, items))
    assert isinstance(result, AgeResult)
    assert result.rows == []
    assert result.notes() == ["aoa: not defined for 1 checkpoint: an age needs a series of at least 3"]
    ids = tokenizer("I see a dog")["input_ids"]
    expected = 0.0
    for at in range(len(ids) - 4, len(ids) - 1):
        row = torch.tensor([[*ids[:at], 4, *ids[at + 1 :]]])
        with torch.no_grad():
            expected -= float(torch.log_softmax(model(input_ids=row).logits[0, at].double(), -1)[ids[at]])
    assert result.surprisal_KI[0, 1] == pytest.approx(expected, abs=1e-3)


def test_the_command_scores_a_series_and_writes_the_official_file(
    data: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(checkpoints / "chck_100M"), "--data", str(data), "--tasks", "aoa", "--checkpoints", str(checkpoints)]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "note: aoa: r over" in shown
    place = tmp_path / "out" / "results" / "chck_100M" / "main" / "zero_shot" / "mlm" / "AoA_word"
    written = json.loads((place / "surprisal.json").read_text())
    assert {k: v for k, v in written["metadata"].items() if k != "model_name"} == {
        "use_bos_only": False,
        "total_steps": 4,
        "completed_steps": 4,
    }
    first = written["results"][0]
    assert list(first) == ["step", "word_count", "target_word", "context_id", "context", "surprisal"]
    assert [first["step"], first["word_count"], first["target_word"], first["context_id"]] == ["chck_1M", 1_000_000, "dog", 0]
    assert [entry["step"] for entry in written["results"][::7]] == ["chck_1M", "chck_2M", "chck_10M", "chck_100M"]
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["tasks"]["aoa"]["unit"] == "r"
    assert main(command) == 0
    assert "already scored" in capsys.readouterr().err
    _model(9).save_pretrained(checkpoints / "chck_2M")  # another series
    assert main(command) == 0
    assert "already scored" not in capsys.readouterr().err


def test_checkpoints_are_found_in_order_or_refused(checkpoints: Path, tmp_path: Path) -> None:
    names = [checkpoint.name for checkpoint in find_checkpoints(str(checkpoints), hub=False).values()]
    assert names == ["chck_1M", "chck_2M", "chck_10M", "chck_100M"]
    listed = ",".join(str(checkpoints / name) for name in ("chck_10M", "chck_1M", "chck_2M"))
    assert [checkpoint.words_seen for checkpoint in find_checkpoints(listed, hub=False).values()] == [1e6, 2e6, 1e7]
    assert list(find_checkpoints("chck_2M,chck_1M,chck_10M", hub=True)) == ["chck_1M", "chck_2M", "chck_10M"]
    for option, hub, message in (
        (str(checkpoints / "chck_1M"), False, "1 found; an age of acquisition needs a series of at least 3"),
        (str(tmp_path / "nowhere"), False, "no such directory"),
        (f"{checkpoints / 'notes'}", False, "notes: must be named by the words it has seen"),
        ("chck_1M,chck_1000K,chck_2M", True, "chck_1M and chck_1000K have seen the same number of words"),
    ):
        with pytest.raises(UserError, match=message):
            find_checkpoints(option, hub)


def test_a_sentence_longer_than_the_model_is_named_and_left_out(data: Path, tokenizer: Any) -> None:
    items = load_items(data, ["aoa"], fast=False)
    plan = plan_items(tokenizer, items)
    parts = [score_plan(_model(seed, positions=14), plan)[0] for seed in range(3)]
    result = joined([part for part in parts if isinstance(part, AgeResult)], [Checkpoint(f"chck_{k}M", k * 1e6) for k in (1, 2, 3)])
    long = [item.sentences[0] for item, nan in zip(items[0].items, result.nan_I, strict=True) if nan]
    assert long == ["I see a dog", "the doghouse"]  # 11 and 12 bytes, and two special tokens, in 12 positions
    assert "no surprisal for 2 of 7 items (2 are longer than its 12 positions)" in " ".join(result.notes())


def test_chance_in_2026_counts_a_words_tokens_behind_another_word(data: Path, tokenizer: Any) -> None:
    vocabulary = word_tokens(tokenizer, load_items(data, ["aoa"], fast=False)[0])
    assert vocabulary == Vocabulary(261, {word: len(word) + 1 for word in WORDS})


def test_bad_files_are_one_line(data: Path) -> None:
    folder = data / "full_eval" / "cdi_childes"
    contexts, children = ((folder / name).read_text() for name in ("cdi_childes.json", "cdi_human.csv"))
    for name, text, message in (
        ("cdi_childes.json", "", "cdi_childes.json: empty"),
        ("cdi_childes.json", contexts[:40], "not JSON .*truncated"),
        ("cdi_childes.json", '["dog"]', "gives each word a list of contexts"),
        ("cdi_childes.json", '{"dog": [], "dog": []}', "cdi_childes.json: key 'dog' is given twice"),
        ("cdi_childes.json", '{"dog": ' + "[" * 100_000, "cdi_childes.json: .*nested too deeply"),
        ("cdi_childes.json", '{"dog": [' + "1" * 5000 + "]}", "cdi_childes.json: .*thousands of digits"),
        ("cdi_childes.json", r'{"dog": [{"context": "\ud800"}]}', "cdi_childes.json: text .*half of a surrogate pair"),
        ("cdi_human.csv", "word,16\ndog,inf\n", "line 2: column 16 = 'inf': must be a number, not infinite"),
        ("cdi_childes.json", '{"dog": [{"text": "a"}]}', "word dog context 0: must be an object with a field context"),
        ("cdi_childes.json", '{"dog": [{"context": 3}]}', "word dog context 0: field context = 3: must be a text"),
        ("cdi_childes.json", '{"dog": []}', "no item of aoa is left"),
        ("cdi_human.csv", children.replace(",word,", ",term,"), "no column word"),
        ("cdi_human.csv", "word,15\ndog,0.5\n", "no column of an age in months"),
        ("cdi_human.csv", children.replace("0,dog,", "0,dog,many,", 1), "line 2: not the 17 cells"),
        ("cdi_human.csv", "word,16\ndog,many\n", "line 2: column 16 = 'many': must be a number"),
    ):
        for other, good in (("cdi_childes.json", contexts), ("cdi_human.csv", children)):
            (folder / other).write_text(text if other == name else good)
        with pytest.raises(UserError, match=message) as caught:
            load_items(data, ["aoa"], fast=False)
        assert "\n" not in str(caught.value)
    (folder / "cdi_human.csv").unlink()
    assert "aoa" not in available_tasks(data, fast=False)
    with pytest.raises(UserError, match=r"missing aoa \(full_eval/cdi_childes: cdi_childes\.json and cdi_human\.csv\)"):
        load_items(data, ["aoa"], fast=False)
    with pytest.raises(UserError, match="not part of the fast set"):
        load_items(data, ["aoa"], fast=True)
