"""Whether a run kept to its budget, counted in words of the raw text, and trials whose files are damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sleep_tune.config import load_config
from sleep_tune.data.token_store import open_store, prepare
from sleep_tune.errors import UserError
from sleep_tune.evaluation.challenge import TRACKS, Track, names_of, revision_of
from sleep_tune.evaluation.legality import is_trial, legality, lines
from sleep_tune.evaluation.model_source import ModelSource
from sleep_tune.evaluation.submission import main
from sleep_tune.presets import combine, set_field, write_yaml
from sleep_tune.study.material import recipe
from sleep_tune.trial import Trial

SMALL = TRACKS["strict-small"]
# 18 words, 13 once cleaned: two say who speaks, and punctuation is no word of its own
SPEECH = "*CHI:\tthe dog number {} wants a ball .\n*MOT:\tno , you may not have it .\n"
BOOK = "The old man of page {} sat by the sea and looked at the ships .\n"  # 16 words, 15 once cleaned


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("text")
    for split, count in (("train", 400), ("dev", 20)):
        (place / f"childes.{split}").write_text("".join(SPEECH.format(i) for i in range(count)))
        (place / f"gutenberg.{split}").write_text("".join(BOOK.format(i) for i in range(count)))
    return place


@pytest.fixture
def make_trial(text: Path, tmp_path: Path, leave: Callable[..., None]) -> Callable[..., Path]:
    """make_trial(words=limit): a finished trial on that text, which saw the samples of childes twice and the others once."""

    def make(words: int | None = None) -> Path:
        raw = combine(["tiny", "epochs"])
        for name, value in {"data.source": {"directory": str(text)}, "tokenizer.vocab_size": 300, "data.words": words}.items():
            raw = set_field(raw, name, value)
        config = load_config(raw)
        prepared = prepare(**recipe(config))
        store = open_store(prepared.directory)
        exposures_N = 2 - store.domain_N.astype(np.uint32)
        directory = tmp_path / f"trial{words}"
        directory.mkdir()
        (directory / "config.yaml").write_text(write_yaml(config.model_dump(mode="json")))
        np.save(directory / "exposures.npy", exposures_N)
        seen = int(exposures_N @ store.words_N)
        (directory / "steps.jsonl").write_text(json.dumps({"words_seen": seen}) + "\n")
        leave(directory, config, prepared, seen)
        return directory

    return make


def test_data_is_judged_raw_and_words_seen_as_they_were_read(make_trial: Callable[..., Path], text: Path) -> None:
    trial = make_trial()
    found = legality(trial, "strict-small", SMALL)
    raw = sum(len((text / f"{domain}.train").read_text().split()) for domain in ("childes", "gutenberg"))
    assert found["words_of_data"] == {"limit": 10_000_000, "words": raw - 2400, "raw_words": raw, "limited_to": None}
    assert found["tokenizer_text"]["raw_words"] == raw
    seen = found["words_seen"]
    # samples run over the border of two domains: a handful of words are taken for the other's
    assert seen["words"] == pytest.approx(2 * 400 * 13 + 400 * 15, abs=100)
    assert seen["raw_words"] == pytest.approx(2 * 400 * 18 + 400 * 16, abs=100)
    assert found["legal"] is True
    between = Track(raw - 1, seen["raw_words"] - 1, (1,))  # the cleaned words are within these limits, the raw ones are not
    over = legality(trial, "strict-small", between)
    assert over["verdicts"] == {"words_of_data": False, "words_seen": True, "tokenizer_text": True}
    said = lines(over)
    assert said[0] == f"words of data: {raw:,} of the raw text ({raw - 2400:,} once cleaned), OVER the {raw - 1:,} of strict-small"
    allowed = (seen["raw_words"] - 1) * seen["words"] // seen["raw_words"]
    assert f"may see {allowed:,} cleaned words (budget_words)" in said[2]
    assert legality(trial, "strict-small", Track(raw, seen["words"] - 1, (1,)))["verdicts"]["words_seen"] is False


def test_under_a_limit_only_the_raw_words_that_were_used_count(make_trial: Callable[..., Path]) -> None:
    trial = make_trial(2800)  # 100 pairs of lines and 100 lines: a quarter of each domain
    words = legality(trial, "strict-small", SMALL)["words_of_data"]
    assert (words["words"], words["limited_to"]) == (2800, 2800)
    assert words["raw_words"] == pytest.approx(100 * 18 + 100 * 16, abs=20)


def test_raw_words_that_cannot_be_told_are_not_taken_for_granted(make_trial: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    trial = make_trial()
    (trial / "exposures.npy").unlink()
    found = legality(trial, "strict-small", SMALL)
    assert (found["verdicts"]["words_seen"], found["legal"], found["words_seen"]["raw_words"]) == (True, True, None)
    assert "the raw words seen are unknown: no exposures.npy" in found["unknown"]
    assert legality(trial, "strict-small", Track(10**7, 100, (1,)))["verdicts"]["words_seen"] is False  # cleaned ones are over it already
    text.rename(tmp_path / "elsewhere")
    try:
        found = legality(trial, "strict-small", SMALL)
    finally:
        (tmp_path / "elsewhere").rename(text)
    assert found["verdicts"]["words_of_data"] is None
    assert found["unknown"][0].startswith("the words of data are unknown: ")
    assert "words of data: unknown of the raw text (unknown once cleaned), cannot be told to be within" in lines(found)[0]


def train(directory: Path, source: Path, **fields: Any) -> Path:
    """A real trial on a text, as small as can be."""
    raw = combine(["tiny", "epochs"])
    small: dict[str, Any] = {
        "model.width": 16,
        "model.heads": 2,
        "model.ffn": 32,
        "evaluation.milestones.tasks": [],
        "evaluation.final.tasks": [],
    }
    for name, value in {"data.source": {"directory": str(source)}, "tokenizer.vocab_size": 300, **small, **fields}.items():
        raw = set_field(raw, name, value)
    config = load_config(raw)
    trial = Trial(config, prepare(**recipe(config)), directory, [config.budget_words])
    trial.advance()
    trial.finish()
    trial.close()
    return directory


def write_lines(source: Path, line: str) -> None:
    for split, count in (("train", 200), ("dev", 20)):
        source.mkdir(exist_ok=True)
        (source / f"childes.{split}").write_text("".join(line.format(i) + "\n" for i in range(count)))


def test_a_trial_is_not_judged_by_a_text_that_it_has_not_read(tmp_path: Path) -> None:
    """The text is changed to one of twice the words and as many samples, and another trial reads that."""
    source, fields = tmp_path / "own", {"data.rows": "lines", "budget_words": 3000}
    write_lines(source, "cat dog {} ran away now")
    first = train(tmp_path / "first", source, **fields)
    found = legality(first, "strict-small", SMALL)
    assert (found["words_of_data"]["words"], found["legal"], found["unknown"]) == (1200, True, [])
    write_lines(source, "a b c d e f g h {} j k l")
    second = train(tmp_path / "second", source, **fields)
    assert legality(second, "strict-small", SMALL)["words_of_data"]["words"] == 2400
    found = legality(first, "strict-small", SMALL)
    assert (found["words_of_data"]["words"], found["exposures"], found["legal"]) == (None, None, None)
    assert found["unknown"] == ["the words of data are unknown: the text or config.yaml has been changed since the trial read it"]
    for told in ("corpus_digest", "store_digest"):  # as trials wrote it before: their checkpoints tell
        for trial in (first, second):
            final = json.loads((trial / "final.json").read_text())
            (trial / "final.json").write_text(json.dumps({name: value for name, value in final.items() if name != told}))
    assert legality(first, "strict-small", SMALL)["words_of_data"]["words"] is None
    assert legality(second, "strict-small", SMALL)["words_of_data"]["words"] == 2400
    for path in second.glob("checkpoint_*"):
        path.unlink()
    found = legality(second, "strict-small", SMALL)
    assert (found["words_of_data"]["words"], found["legal"]) == (None, None)
    assert found["unknown"] == ["the words of data are unknown: neither final.json nor a checkpoint tells which text the trial read"]


def test_more_than_ten_readings_of_the_text_are_said_aloud(tmp_path: Path) -> None:
    write_lines(tmp_path / "own", "cat dog {} ran away now")
    for budget, too_many in ((12_000, False), (14_400, True)):
        found = legality(train(tmp_path / str(budget), tmp_path / "own", budget_words=budget), "strict-small", SMALL)
        said = [line for line in lines(found) if line.startswith("TOO MANY exposures: the text was read 12 times on average (14,400 words")]
        assert (bool(said), found["legal"]) == (too_many, True)


def test_a_tokenizer_that_the_words_of_data_do_not_make_is_not_vouched_for(make_trial: Callable[..., Path]) -> None:
    trial = make_trial()
    path = trial / "model" / "tokenizer.json"
    assert "tokenizer: trained on the words of data, no other text" in lines(legality(trial, "strict-small", SMALL))
    path.write_text(path.read_text() + " ")
    found = legality(trial, "strict-small", SMALL)
    assert (found["verdicts"]["tokenizer_text"], found["legal"]) == (None, None)
    assert found["tokenizer_text"]["raw_words"] is None
    assert any(line.startswith("tokenizer: model/tokenizer.json is not the one that the words of data make") for line in lines(found))
    path.unlink()
    found = legality(trial, "strict-small", SMALL)
    assert (found["verdicts"]["tokenizer_text"], found["legal"]) == (None, None)
    assert any(line.startswith("tokenizer: the text it was trained on is unknown") for line in lines(found))


@pytest.mark.parametrize("times", [-1, 0, 100_000])
def test_exposures_that_cannot_be_this_runs_are_refused(times: int, make_trial: Callable[..., Path]) -> None:
    trial = make_trial()
    np.save(trial / "exposures.npy", np.load(trial / "exposures.npy").astype(np.int64) * times)
    with pytest.raises(UserError, match=r"exposures\.npy: (damaged; a sample was|its samples have [\d,]+ words, the trial has seen)"):
        legality(trial, "strict-small", SMALL)


DAMAGE: dict[str, list[bytes]] = {
    "config.yaml": [b"\xff\xfe", b"[]", b"budget_words: {", b"a: &a [*a]\n", b"", b"budget_words: -1\n", b"[" * 50_000],
    "final.json": [b"{", b"[]", b"\xff", b'{"words_seen": 1e999}', b'{"words_seen": null}', b'{"words_seen": -4}', b"[" * 100_000],
    "steps.jsonl": [b"{\n", b"[]\n", b"\xff\n", b'{"words_seen": NaN}\n', b'{"words_seen": "7"}\n'],
    "exposures.npy": [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"nothing of the kind"],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_of_a_trial_are_one_line(name: str, make_trial: Callable[..., Path]) -> None:
    trial = make_trial()
    if name == "steps.jsonl":
        (trial / "final.json").unlink()
    for content in DAMAGE[name]:
        (trial / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            legality(trial, "strict-small", SMALL)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("counts", [np.zeros(3, np.uint32), np.zeros((2, 2), np.int64), np.zeros(3), np.array([{}]), np.array(["a"])])
def test_exposures_of_another_text_or_kind_are_refused(counts: Any, make_trial: Callable[..., Path]) -> None:
    trial = make_trial()
    np.save(trial / "exposures.npy", counts)
    with pytest.raises(UserError, match=r"exposures\.npy"):
        legality(trial, "strict-small", SMALL)


def test_results_inside_a_trial_are_its_own_and_those_of_another_model_are_named(
    make_trial: Callable[..., Path], fill: Callable[..., None], tmp_path: Path, write_value: Callable[[Path, Any], None]
) -> None:
    trial = make_trial()
    assert is_trial(trial)
    fill(trial / "evaluation" / "results" / "model", "2025", "reading", revisions=("chck_1M",))
    write_value(trial / "model" / "config.json", {})
    out = str(tmp_path / "x.json")
    for place in (trial, trial / "evaluation", trial / "evaluation" / "results"):
        assert main([str(place), "--out", out]) == 1
        beside = json.loads((tmp_path / "x.json.legality.json").read_text())
        assert beside["legality"]["legal"] is True
        assert not [line for line in beside["problems"] if "another model" in line]
    record = {"model": "0" * 32, "place": "/m", "rules": "2025", "edition": "2025", "items": 1, "ties": 0, "nans": 0, "unofficial": []}
    write_value(trial / "evaluation/results/model/main/zero_shot/mlm/reading/made_from.json", record)
    with pytest.raises(
        UserError, match="nothing there that belongs into a submission of 2025: model: the results are of another model than"
    ):
        main([str(trial), "--out", out])


def test_checkpoints_of_another_model_than_the_trials_are_named(
    make_trial: Callable[..., Path], fill: Callable[..., None], tmp_path: Path, write_value: Callable[[Path, Any], None]
) -> None:
    trial, other = make_trial(), make_trial(2800)
    results = trial / "evaluation" / "results" / "model"
    fill(results, "2025", "reading", revisions=("chck_1M", "chck_2M", "chck_3M", "chck_4M"))
    for place in (
        trial / "milestones/chck_1M",
        trial / "milestones/words_2000000",
        other / "milestones/chck_3M",
        tmp_path / "else/chck_4M",
    ):
        write_value(place / "config.json", str(place))

    def record(revision: str, place: Path) -> None:
        about = {"rules": "2025", "edition": "2025", "items": 1, "ties": 0, "nans": 0, "unofficial": []}
        told = {"model": ModelSource(str(place)).digest, "place": str(place)}
        write_value(results / revision / "zero_shot/mlm/reading/made_from.json", about | told)

    def said() -> tuple[list[str], list[str]]:
        assert main([str(trial), "--out", str(tmp_path / "x.json")]) == 1
        beside = json.loads((tmp_path / "x.json.legality.json").read_text())
        return [line for line in beside["problems"] if "another" in line], [
            line for line in beside["notes"] if "not known to be of" in line
        ]

    record("chck_1M", trial / "milestones/chck_1M")
    record("chck_2M", trial / "milestones/words_2000000")
    assert said() == ([], [])
    record("chck_2M", tmp_path / "else/chck_4M")
    record("chck_3M", other / "milestones/chck_3M")
    problems, notes = said()
    assert [line.partition(": score")[0] for line in problems] == [
        f"chck_2M: the results are of another model than {trial}/milestones/words_2000000",
        f"chck_3M: the results are of {other}/milestones/chck_3M, a model of another trial than {trial}",
    ]
    assert notes == []
    (tmp_path / "else/chck_4M/more.json").write_text("{}")
    record("chck_4M", tmp_path / "else/chck_4M")
    assert said()[1] == [f"chck_4M: not known to be of {trial}: it has kept no models of these names in milestones/"]


def test_what_is_to_do_asks_of_a_trial_only_what_can_be_done(
    make_trial: Callable[..., Path],
    fill: Callable[..., None],
    tmp_path: Path,
    write_value: Callable[[Path, Any], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    trial = make_trial()
    results = trial / "evaluation" / "results" / "model"
    fill(results, "2025", "reading", revisions=("chck_1M",))
    write_value(trial / "model/config.json", {})

    def said() -> str:
        assert main([str(trial), "--out", str(tmp_path / "x.json")]) == 1
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("to do: "))

    for millions in (1, 2):
        write_value(trial / f"milestones/chck_{millions}M/config.json", {})
        assert f" {trial}/model --checkpoints {trial}/milestones " in said()
        assert ",aoa," not in said()  # an age needs three
    write_value(trial / "milestones/chck_3M/config.json", {})
    assert ",aoa," in said()


def test_what_is_to_do_names_a_model_of_the_hub_as_it_was_named(
    fill: Callable[..., None], tmp_path: Path, write_value: Callable[[Path, Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", revisions=())
    record = {"model": "0" * 32, "place": "hub:org/net", "rules": "2025", "edition": "2025", "items": 1, "ties": 0, "nans": 0}
    write_value(tmp_path / "results/net/main/zero_shot/mlm/reading/made_from.json", record | {"unofficial": []})
    assert main([str(tmp_path), "--out", str(tmp_path / "x.json")]) == 1
    assert "to do: python -m sleep_tune.evaluation hub:org/net --checkpoints" in capsys.readouterr().out


def test_the_other_editions_files_are_made_in_a_place_of_their_own(
    make_trial: Callable[..., Path],
    fill: Callable[..., None],
    tmp_path: Path,
    write_value: Callable[[Path, Any], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    trial, out = make_trial(), str(tmp_path / "x.json")
    results = trial / "evaluation" / "results" / "model"
    fill(results, "2025", "reading", "wug_adj", revisions=())
    write_value(trial / "model/config.json", {})
    own = ModelSource(str(trial / "model")).digest
    for place, edition in (("reading", ""), ("wug_adj/wug_adj_nominalization", "2025")):
        record = {"model": own, "place": str(trial / "model"), "rules": "honest", "edition": edition, "items": 1, "ties": 0, "nans": 0}
        write_value(results / "main/zero_shot/mlm" / place / "made_from.json", record | {"unofficial": []})
    for edition, place, told in (
        ("2025", "", "what is done already is kept"),
        ("2026", "_2026", f"then submit {trial}/evaluation_2026 --trial {trial}"),
    ):
        assert main([str(trial), "--out", out, "--edition", edition]) == 1
        said = capsys.readouterr().out
        assert f" --out {trial}/evaluation{place}\n" in said
        assert told in said


def test_a_checkpoint_has_the_challenges_name_and_a_trials_own() -> None:
    assert [revision_of(name) for name in ("chck_1M", "words_1000000", "words_100000000", "chck_1000M")] == [
        "chck_1M",
        "chck_1M",
        "chck_100M",
        "chck_1000M",
    ]
    for name in ("main", "words_1500000", "words_999", "chck_M", "model", "chck_1M ", "words_", "words_000000", "chck_0M"):
        assert revision_of(name) is None, name
    assert names_of("chck_20M") == ("chck_20M", "words_20000000")
    assert names_of("main") == ("main",)
    assert all(revision_of(name) == revision for revision in TRACKS["strict"].revisions for name in names_of(revision))
