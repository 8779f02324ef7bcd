"""The command line from outside: what it lists, what it plans, and the one line for every kind of bad input."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import launch
from sleep_tune.config import configuration_id, trial_id
from sleep_tune.data.token_store import prepare
from sleep_tune.errors import UserError
from sleep_tune.evaluation.official_data import SOURCE
from sleep_tune.evaluation.tasks import TASKS
from sleep_tune.machine import machine
from sleep_tune.presets import presets
from sleep_tune.sleep.criteria import CRITERIA
from sleep_tune.sleep.strategies import STRATEGIES
from sleep_tune.study.catalogue import shipped
from sleep_tune.study.ledger import Ledger
from sleep_tune.study.live_scores import live_scores
from sleep_tune.study.material import prepared, read_items, recipe, settle_evaluation
from sleep_tune.study.request import Request, ask, run_options
from sleep_tune.study.spaces import save_study
from sleep_tune.training.registry import MODELS

LAUNCH = Path(launch.__file__)
HEAVY = ("torch", "ray", "transformers", "datasets", "tokenizers", "pandas", "pyarrow", "optuna", "wandb")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in a directory and with a cache of its own, full of things that are wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLEEP_TUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x/empty").mkdir(parents=True)
    (tmp_path / "x/file").touch()
    (tmp_path / "x/broken.yaml").write_text("base: [tiny\nvary: }\n")
    (tmp_path / "x/blank").mkdir()
    (tmp_path / "x/blank/childes.train").write_text("  \n\n")
    (tmp_path / "x/binary").mkdir()
    (tmp_path / "x/binary/childes.train").write_bytes(b"words\0words")
    (tmp_path / "x/latin").mkdir()
    (tmp_path / "x/latin/childes.train").write_bytes("un café\n".encode("latin-1"))
    (tmp_path / "strangers/smoke").mkdir(parents=True)
    (tmp_path / "strangers/smoke/thesis.txt").touch()


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(LAUNCH), *arguments], capture_output=True, text=True, timeout=60)


def refused(arguments: Sequence[str]) -> str:
    with pytest.raises(UserError) as error:
        launch.run(arguments)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    return str(error.value)


def smoke(text: str) -> list[str]:
    return ["--space", "smoke", *text.split()]


def test_the_list_has_one_line_for_everything_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.run(["--list"]) == 0
    sections = [section.splitlines() for section in capsys.readouterr().out.split("\n\n")]
    titles = [lines[0] for lines in sections]
    assert titles == [
        "search spaces (--space)",
        "profiles (--profile, --preset)",
        "schedules (base and always of a study, --preset)",
        "strategies (sleep.strategy)",
        "criteria (sleep.criterion)",
        "models (model.name)",
        "tasks (evaluation.final.tasks)",
        "tasks of python -m sleep_tune.evaluation alone",
    ]
    names = [[line.split()[0] for line in lines[1:]] for lines in sections]
    kinds = {kind: [name for name, row in presets().items() if row["kind"] == kind] for kind in ("profile", "schedule")}
    assert names[:-2] == [list(shipped()), kinds["profile"], kinds["schedule"], list(STRATEGIES), list(CRITERIA), list(MODELS)]
    assert names[-2:] == [[name for name in TASKS if name != "aoa"], ["aoa", "glue"]]
    for line in (line for lines in sections for line in lines[1:]):
        assert re.fullmatch(r"  \S+ +\S.*[^ ]", line), line


def test_the_list_and_the_plan_need_no_heavy_import() -> None:
    for arguments in (["--list"], ["--space", "smoke", "--dry-run"]):
        code = f"import sys, launch; launch.run({arguments}); print(sorted(set({HEAVY}) & set(sys.modules)))"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.splitlines()[-1] == "[]"


PLAN = """\
smoke: Does everything run, end to end? Two strategies x two replay ratios, plain epochs beside them.
  base         tiny, weighted_replay
  varies       sleep.strategy: random, weighted
               sleep.replay_ratio: 0.1, 0.4
  fixed        budget_words = 40000
               data.words = 10000
               sleep.folds = 5
               sleep.length = {ratio: 3}
               sleep.context = null
  search       grid: 4 configurations x 2 seeds (1, 2) = 8 trials
  always       epochs: 2 trials, in no rung, never stopped
  objective    dev_loss, lowest is best
  scheduler    asha: the best 1 in 3 go on at 4.44k and 13.3k words
  words        40k a trial, 400k in 10 trials at most, about 246k expected
  milestones   21: 400, 800, 1.2k … 40k
  scores       dev_loss at milestones; dev_loss, pairs at the end (rules honest)
  data         the embedded corpus of 50k words, its first 10k words; lines of 16 tokens, vocabulary 512
  corpus       not prepared yet: coverage and exposures are told when it is
  model        roberta_pln, 2 layers of 64, mlm; batches of 16; fp32
  time         uncalibrated: no trial like these has run on this machine yet (--calibrate takes some seconds)
  results      runs/smoke
"""


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    run = process("--space", "smoke", "--dry-run")
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines(keepends=True)
    assert "".join(line for line in lines if line.split()[0] not in ("machine", "trials", "memory")) == PLAN
    assert [line.split()[0] for line in lines if line not in PLAN.splitlines(keepends=True)] == ["machine", "trials", "memory"]
    assert sorted(tmp_path.rglob("*")) == before


REFUSED = [
    ("", "--space NAME_OR_FILE, --resume DIR or --list: one is needed"),
    ("--space", "argument --space: expected one argument (see launch.py --help)"),
    ("--space smoke --bogus", "unrecognized arguments: --bogus (see launch.py --help)"),
    ("--spac smoke", "unrecognized arguments: --spac smoke (see launch.py --help)"),
    ("--list --space smoke", "--space: not with --list, which stands alone"),
    ("--space smok", "unknown space smok (did you mean smoke?); or a path that ends in .yaml"),
    ("--space x/broken.yaml", "x/broken.yaml, line 2: broken YAML: did not find expected ',' or ']'"),
    ("--space x/brokn.yaml", "--space x/brokn.yaml: does not exist (did you mean broken.yaml?)"),
    ("--resume x/nowhere", "study x/nowhere: does not exist"),
    ("--resume x/empty", "study x/empty: holds no study.yaml, so nothing to resume"),
    ("--resume x/file", "study x/file: is a file, must be a directory such as runs/grid"),
    ("--resume x/empty --seeds 1", "--seeds = 1: not with --resume, which runs the study as it is (--space extends one)"),
    ("--resume x/empty --space smoke", "--space = smoke: not with --resume, which runs the study as it is (--space extends one)"),
]
REFUSED_WITH_SMOKE = [
    ("--profile tinny", "unknown profile tinny (did you mean tiny?)"),
    ("--set sleep.replay_ration=0.2", "unknown field sleep.replay_ration (did you mean sleep.replay_ratio?)"),
    ("--set folds=3", "unknown field folds (did you mean sleep.folds?)"),
    ("--set sleep.replay_ratio=1.5", "sleep.replay_ratio = 1.5: must be in (0, 1]"),
    ("--set sleep.replay_ratio=lots", "sleep.replay_ratio = lots: must be in (0, 1]"),
    ("--set sleep.folds=0", "sleep.folds = 0: must be a whole number >= 1"),
    ("--set sleep.strategy=stricct", "sleep.strategy = stricct: unknown (did you mean strict?)"),
    ("--set model.name=robert", "model.name = robert: unknown model (did you mean roberta_pln?)"),
    ("--set nonsense", "--set nonsense: must be field=value, such as sleep.replay_ratio=0.4"),
    ("--set seed=3", "seed: seeds are listed under seeds (--seeds 1,2)"),
    ("--set sleep.folds=5 --set sleep.folds=6", "--set sleep.folds=6: sleep.folds is given by --set sleep.folds=5 too"),
    ("--budget 5k --set budget_words=7", "--set budget_words=7: budget_words is given by --budget too"),
    ("--budget -5", "--budget = -5: must be a whole number of words > 0, such as 200000, 200k or 5M"),
    ("--budget 1e", "--budget = 1e: must be a whole number of words > 0, such as 200000, 200k or 5M"),
    ("--seeds 1,x", "--seeds = 1,x: must be whole numbers >= 0 with commas between, such as 1,2,3"),
    ("--seeds 1,1", "--seeds = 1,1: 1 is given twice"),
    ("--name ../x", "--name = ../x: must be one folder's name: letters, digits, . _ - (a letter or digit first)"),
    ("--name /x", "--name = /x: must be one folder's name: letters, digits, . _ - (a letter or digit first)"),
    ("--name .", "--name = .: must be one folder's name: letters, digits, . _ - (a letter or digit first)"),
    ("--storage x/file", "--storage = x/file: x/file is a file, must be a directory"),
    ("--storage gs://bucket/x", "--storage = gs://bucket/x: must be a directory of this machine (mounted ones are), not a URI"),
    ("--storage strangers", "study strangers/smoke: holds files of no study (thesis.txt): choose another --name or --storage"),
    ("--concurrent 0", "--concurrent = 0: must be a whole number >= 1"),
    ("--cpus-per-trial lots", "--cpus-per-trial = lots: must be a number"),
    ("--address http://x", "--address = http://x: must be auto, HOST:PORT, ray://HOST:PORT or local"),
    ("--data s3://x", "--data = 's3://x': must be a directory or hub:OWNER/NAME"),
    ("--evaluation-data x/nowhere", f"--evaluation-data = x/nowhere: no such file or directory; {SOURCE}"),
    ("--set evaluation.final.tasks=[blimb]", "evaluation.final.tasks = [blimb]: unknown task blimb (did you mean blimp?)"),
    (
        "--set evaluation.final.tasks=[blimp]",
        f"evaluation.final.tasks = [blimp]: no evaluation data (no place is given; --evaluation-data DIR_OR_ZIP); {SOURCE}",
    ),
]


@pytest.mark.parametrize(("arguments", "expected"), REFUSED, ids=[arguments or "nothing" for arguments, _ in REFUSED])
def test_a_command_that_makes_no_sense_is_one_line(arguments: str, expected: str) -> None:
    assert refused(arguments.split()) == expected


@pytest.mark.parametrize(("options", "expected"), REFUSED_WITH_SMOKE, ids=[options for options, _ in REFUSED_WITH_SMOKE])
def test_a_study_that_cannot_be_is_one_line_and_writes_nothing(options: str, expected: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert refused(smoke(options)) == expected
    assert sorted(tmp_path.rglob("*")) == before


def test_text_that_is_none_is_named_before_anything_starts(tmp_path: Path) -> None:
    at = tmp_path / "x"
    assert f"data directory {at}/empty: " in refused(smoke("--data x/empty"))
    assert f"data directory {at}/nowhere: does not exist" in refused(smoke("--data x/nowhere"))
    assert f"{at}/binary/childes.train: is not text" in refused(smoke("--data x/binary"))
    assert f"{at}/latin/childes.train: is not UTF-8" in refused(smoke("--data x/latin"))
    assert f"{at}/blank/childes.train: is empty" in refused(smoke("--data x/blank"))
    assert not (tmp_path / "runs").exists()


def test_more_than_the_machine_has_is_refused() -> None:
    cores = machine().cores
    assert refused(smoke("--cpus-per-trial 4096")) == f"resources.cpus = 4096: must be <= {cores}, the cores of this machine"
    assert refused(smoke(f"--concurrent {cores + 1}")).startswith(f"--concurrent = {cores + 1}: must be <= {cores}")
    if not machine().gpus:
        assert refused(smoke("--gpus-per-trial 1")) == "resources.gpus = 1: this machine has no GPU"


def test_a_cluster_that_does_not_answer_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        assert refused(smoke(f"--address {address}")) == f"--address = {address}: nobody answers there (Connection refused)"
    assert refused(smoke("--address 127.0.0.1:99999")).startswith("--address = 127.0.0.1:99999: nobody answers there (")
    assert not (tmp_path / "runs").exists()


def test_a_cluster_named_by_the_environment_has_to_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert refused(smoke("--address auto")) == "--address = 127.0.0.1:1: nobody answers there (Connection refused)"


def test_local_is_this_machine_with_its_limits() -> None:
    assert run_options(Request(address="local")).address is None
    assert refused(smoke(f"--address local --concurrent {machine().cores + 1}")).startswith("--concurrent = ")


def test_a_directory_that_takes_no_file_is_refused() -> None:
    assert refused(smoke("--storage /proc/x")) == "--storage = /proc/x: cannot be written to (No such file or directory)"


LONG = "x" * 300
TOO_LONG = [
    (["--resume", LONG], f"study {LONG}: cannot be read (File name too long)"),
    (["--space", f"{LONG}.yaml"], f"--space {LONG}.yaml: cannot be read (File name too long)"),
    (smoke(f"--storage {LONG}"), f"--storage = {LONG}: cannot be written to (File name too long)"),
    (smoke(f"--name {LONG}"), f"--name = {LONG}: must be one folder's name: letters, digits, . _ - (a letter or digit first)"),
    (smoke(f"--data /{LONG}"), f"data.source.directory = /{LONG}: cannot be read (File name too long)"),
    (smoke(f"--set evaluation.data={LONG}"), f"evaluation.data = {LONG}: cannot be read (File name too long)"),
]


@pytest.mark.parametrize(("arguments", "expected"), TOO_LONG, ids=[line.split()[0] for _, line in TOO_LONG])
def test_a_name_that_no_disk_takes_is_one_line(arguments: list[str], expected: str) -> None:
    assert refused(arguments) == expected


def test_a_place_too_deep_for_a_study_in_it_is_one_line() -> None:
    deep = "/".join(["d" * 100] * 40)
    assert "File name too long" in refused(smoke(f"--storage {deep[:4060]} --name {'n' * 100}"))


def test_more_folds_than_samples_are_refused_once_the_corpus_is_known(tmp_path: Path) -> None:
    arguments = smoke("--set sleep.folds=100000000 --set tokenizer.vocab_size=300 --set data.words=2000 --dry-run")
    study, _ = ask(Request(space="smoke", set=["tokenizer.vocab_size=300", "data.words=2000"]))
    prepare(**recipe(study.first))
    assert re.fullmatch(r"sleep\.folds = 100000000: must be <= \d+, the samples of the corpus \(rows of 16 tokens\)", refused(arguments))


def test_errors_leave_the_process_as_one_line_and_exit_code_2(tmp_path: Path) -> None:
    run = process("--space", "gird")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "error: unknown space gird (did you mean grid?); or a path that ends in .yaml\n"
    assert not (tmp_path / "runs").exists()


def stored(*options: str) -> Path:
    study, directory = ask(launch_request(*options))
    save_study(study, directory)
    return directory


def launch_request(*options: str) -> Request:
    given = vars(launch.parser().parse_args(list(options)))
    given.pop("list")
    return Request(**given)


def test_a_study_goes_on_as_it_is_and_with_more_seeds_or_values(capsys: pytest.CaptureFixture[str]) -> None:
    stored("--space", "smoke")
    for arguments in (["--resume", "runs/smoke"], ["--space", "smoke"], ["--space", "smoke", "--seeds", "2,1,3"]):
        assert launch.run([*arguments, "--dry-run"]) == 0
    assert "4 configurations x 3 seeds (2, 1, 3) = 12 trials" in capsys.readouterr().out


def test_the_plan_of_a_study_that_was_started_says_how_much_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    directory = stored("--space", "smoke")
    study, _ = ask(launch_request("--space", "smoke"))
    with Ledger(directory) as ledger:
        ledger.append("opened", spec=study.spec.plain(), versions={}, precision="fp32", corpus_digest="c", tokenizer_digest="t")
        for config in study.always():
            ids = {"trial": trial_id(config, "c"), "configuration": configuration_id(config, "c")}
            ledger.append("proposed", **ids, seed=config.seed, config=config.model_dump(mode="json"), origin="always")
        ledger.append("ended", trial=ids["trial"], state="failed", message="disk full")
    assert launch.run(["--resume", "runs/smoke", "--dry-run"]) == 0
    assert "  done         1 of 10 trials (1 failed); 1 begun\n" in capsys.readouterr().out


def test_a_study_that_is_not_there_names_those_that_are() -> None:
    stored("--space", "smoke")
    assert refused(["--resume", "runs/nope"]) == "study runs/nope: does not exist (studies there: smoke)"


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ("--seeds 1", "holds more than that (a study can be extended, not cut): seeds = [1] here, [1,2] there"),
        ("--budget 50k", "holds another study's results: budget_words = 50000 here, 40000 there"),
        ("--profile pilot --name smoke", "holds another study's results: base = "),
        ("--set sleep.strategy=strict", "holds another study's results: sleep.strategy = strict here, not set there"),
        ("--data x/empty --name smoke", "holds another study's results: data.source = "),
    ],
)
def test_another_study_in_the_same_place_is_refused(options: str, difference: str) -> None:
    stored("--space", "smoke")
    line = refused(smoke(options))
    assert line.startswith(f"study runs/smoke: {difference}")
    assert line.endswith("; choose another --name or --storage")


def test_the_default_name_says_space_profile_and_data() -> None:
    def name(*options: str) -> str:
        return str(ask(launch_request("--space", "smoke", *options))[1])

    assert name() == "runs/smoke"
    assert name("--profile", "pilot") == "runs/smoke-pilot"
    assert name("--data", "x/empty/", "--storage", "elsewhere") == "elsewhere/smoke-empty"
    assert name("--profile", "pilot", "--data", "hub:some/Corpus") == "runs/smoke-pilot-Corpus"


def test_tasks_that_a_profile_asks_for_in_vain_are_left_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/childes.train").write_text("some words here\n" * 50)
    assert launch.run(smoke("--data text --dry-run")) == 0
    assert "warning      left out: pairs: the pairs belong to the embedded corpus, which --data replaces\n" in capsys.readouterr().out
    assert launch.run(smoke("--data text --profile pilot --dry-run")) == 0
    assert f"left out: blimp, supplement: no evaluation data (nothing at {tmp_path}/evaluation_data" in capsys.readouterr().out


def test_evaluation_data_that_nothing_asks_for_are_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    evaluation_data(tmp_path / "evaluation_data", ITEM)

    def notes(*more: str) -> list[str]:
        return settle_evaluation(ask(launch_request(*smoke("--data text"), *more))[0])[1]

    how = "--set 'evaluation.final.tasks=[blimp]' scores it at the end, evaluation.milestones.tasks on the way"
    assert notes()[1:] == [f"no official task is scored: {tmp_path}/evaluation_data has blimp; {how}"]
    assert notes("--set", "evaluation.final.tasks=[]") == []
    assert notes("--set", "evaluation.final.tasks=[blimp]") == []


def evaluation_data(directory: Path, *lines: str) -> Path:
    (directory / "fast_eval/blimp_fast").mkdir(parents=True)
    (directory / "fast_eval/blimp_fast/some_rule.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return directory


ITEM = '{"sentence_good": "a b", "sentence_bad": "b a", "field": "syntax", "linguistics_term": "order", "UID": "some_rule"}'
WITH_BLIMP = "--data text --evaluation-data there --set evaluation.final.tasks=[blimp]"


def test_evaluation_data_that_breaks_off_end_the_start_and_not_the_first_trial(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/childes.train").write_text("some words here\n" * 50)
    evaluation_data(tmp_path / "there", ITEM, ITEM[:40])
    line = refused(smoke(WITH_BLIMP))
    assert line.startswith(f"{tmp_path}/there/fast_eval/blimp_fast/some_rule.jsonl line 2: not JSON")
    assert not (tmp_path / "runs").exists()


def test_what_is_scored_is_read_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    evaluation_data(tmp_path / "there", ITEM, ITEM)
    study, _ = settle_evaluation(ask(launch_request(*smoke(WITH_BLIMP)))[0])
    assert list(read_items(study)) == ["evaluation data: blimp: 2 items of 1 UID"]


def told_of_milestones(*more: str, tasks: str = "blimp") -> tuple[list[str], list[str]]:
    asked = f"--evaluation-data there --set evaluation.milestones.tasks=[{tasks}] --budget 20000"
    study, _ = settle_evaluation(ask(launch_request(*smoke(asked), *more))[0])
    return live_scores(study, prepared(study, say=lambda line: None))


def test_the_plan_tells_at_which_milestones_tasks_are_scored_and_warns_where_at_none(tmp_path: Path) -> None:
    evaluation_data(tmp_path / "there", *[ITEM.replace("a b", "a b " * size) for size in (40, 30, 35)])
    everywhere = ["blimp 3 items, at 15 of 15 milestones, from 400 words on"]
    assert told_of_milestones("--set", "evaluation.share=null") == (everywhere, [])
    told, [line] = told_of_milestones("--set", "evaluation.share=0.01")
    one = "blimp 1 item (1 of every UID)"
    assert not told
    assert line.startswith(f"scored at no milestone: {one}: they cost more than evaluation.share = 0.01 of the training; ")
    [enough] = re.findall(r"evaluation\.share=([\d.]+)", line)
    assert told_of_milestones("--set", f"evaluation.share={enough}")[0][0].startswith(f"{one}, at 1 of 15 milestones")
    assert told_of_milestones("--set", f"evaluation.share={float(enough) - 0.01:g}")[1]
    [words] = re.findall(r"or ([\d,]+) words seen would", line)
    asked = ("--set", "evaluation.share=0.01", "--budget")
    assert told_of_milestones(*asked, words.replace(",", ""))[0]
    assert told_of_milestones(*asked, str(int(words.replace(",", "")) - 1))[1]
    assert told_of_milestones(tasks="") == ([], [])


def test_a_task_without_a_fast_set_is_scored_where_its_full_set_is(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "there/full_eval/comps").mkdir(parents=True)
    for name in TASKS["comps"].files:
        item = {"prefix_acceptable": "A cat", "prefix_unacceptable": "A car", "property_phrase": "has paws."}
        (tmp_path / f"there/full_eval/comps/{name}.jsonl").write_text(json.dumps(item) + "\n")
    asked = "--data text --evaluation-data there --set evaluation.final.tasks=[comps]"
    study, _ = settle_evaluation(ask(launch_request(*smoke(asked)))[0])
    assert study.first.evaluation.final.tasks == ("comps",)
    assert list(read_items(study)) == ["evaluation data: comps: 4 items of 4 UIDs"]


def test_a_task_that_is_the_objective_is_scored_at_every_milestone_whatever_it_costs(tmp_path: Path) -> None:
    (tmp_path / "pairs.yaml").write_text(PAIRS_OBJECTIVE)
    asked, _ = settle_evaluation(ask(launch_request("--space", "./pairs.yaml"))[0])
    assert asked.first.evaluation.share is None
    assert settle_evaluation(ask(launch_request("--space", "smoke"))[0])[0].first.evaluation.share == 0.1


PAIRS_OBJECTIVE = """\
base: [tiny, weighted_replay]
set: {evaluation.milestones.tasks: [pairs]}
vary: {sleep.folds: [5, 10]}
objective: {metric: pairs, mode: max}
seeds: [1]
"""


def test_a_schedule_that_ends_before_its_budget_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    small = "--set tokenizer.vocab_size=300 --set data.words=2000 --budget 20k --set sleep.length.ratio=1"
    prepare(**recipe(ask(launch_request(*smoke(small)))[0].first))
    assert launch.run([*smoke(f"{small} --set sleep.passes=3"), "--dry-run"]) == 0
    ended = re.findall(r"warning +the schedule ends at (\d+)% of the budget: .* \(4 of 5 configurations\)", capsys.readouterr().out)
    assert len(ended) == 1
    assert 55 <= int(ended[0]) <= 65  # three passes awake and as much asleep, of 2k words
    assert launch.run([*smoke(small), "--dry-run"]) == 0
    assert "the schedule ends" not in capsys.readouterr().out


def test_evaluation_data_beside_the_text_is_found(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.run([*smoke("--profile pilot --dry-run --data"), os.fspath(shared_data / "babylm")]) == 0
    shown = capsys.readouterr().out
    assert f"evaluation data {shared_data / 'evaluation_data'}" in shown
    assert "dev_loss, blimp, supplement at the end" in shown
    assert "warning" not in shown
