"""A study made up by hand, in the files a real one leaves: what its readers (tables, outcome, plots) are tested on."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sleep_tune.config import configuration_id, load_config, trial_id
from sleep_tune.presets import combine, set_field
from sleep_tune.study.ledger import Ledger
from sleep_tune.words import all_milestones

BUDGET, CORPUS, ROWS, WORDS_A_ROW = 200_000, 50_000, 16, 5.5
RUNGS = (22_222, 66_666)


def configs(vary: dict[str, list[Any]], seeds: tuple[int, ...]) -> list[tuple[str, dict[str, Any]]]:
    """(origin, nested config) of every trial: the baselines first."""
    found = [("always", {**combine(["tiny", name]), "seed": seed}) for name in ("epochs", "baseline_like") for seed in seeds]
    for values in itertools.product(*vary.values()):
        raw = combine(["tiny", "weighted_replay"])
        for name, value in zip(vary, values, strict=True):
            raw = set_field(raw, name, value)
        found += [("grid", {**raw, "seed": seed}) for seed in seeds]
    return [(origin, load_config(raw).model_dump(mode="json")) for origin, raw in found]


def final_loss(config: dict[str, Any]) -> float:
    """The law of the made-up study: nats at the full budget without noise."""
    sleep = config["sleep"]
    if sleep is None:
        return 2.60
    strategy = {"random": 0.00, "weighted": -0.05, "strict": 0.12}[sleep["strategy"]]
    ratio = sleep["length"]["ratio"]
    return 2.58 + strategy + 0.02 * (ratio - 1) + 0.08 * abs(np.log10(sleep["replay_ratio"] / 0.4)) + 0.002 * sleep["folds"]


def step_lines(config: dict[str, Any], until_words: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Step records with the phases the schedule would have."""
    sleep, lines, words, step = config["sleep"], [], 0.0, 0
    fold = CORPUS / sleep["folds"] if sleep else BUDGET
    ratio = sleep["length"]["ratio"] if sleep else 0
    while words < until_words:
        place, step = words % (fold * (1 + ratio)), step + 1
        words += ROWS * WORDS_A_ROW
        phase = "sleep" if place >= fold else "wake"
        loss = final_loss(config) + 3.6 * np.exp(-words / 40_000) - 0.25 * (phase == "sleep") + 0.12 * generator.normal()
        lines.append(
            {"step": step, "cycle": int(words // (fold * (1 + ratio))), "phase": phase, "words_seen": int(words), "loss": float(loss),
             "lr": 3e-3 * min(1.0, words / 20_000) * (1 - words / (BUDGET + 100)), "grad_norm": 1.0, "tokens": 130, "wall_s": 0.002}
        )  # fmt: skip
    return lines


def cycle_lines(config: dict[str, Any], steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the cycles that ended: replays halve with every cycle of age, and a fold's loss grows by 0.1 nats a cycle."""
    sleep, lines = config["sleep"], []
    if not sleep:
        return []
    fold = ROWS * int(CORPUS / sleep["folds"] / ROWS / WORDS_A_ROW)
    for cycle in range(steps[-1]["cycle"]):
        last = [line for line in steps if line["cycle"] == cycle][-1]
        ages = min(cycle + 1, sleep["folds"])
        replays = [round(fold * sleep["length"]["ratio"] * 0.5**age) for age in range(ages)]
        buffer, score = round(sleep["replay_ratio"] * fold * ages), final_loss(config)
        lines.append(
            {"cycle": cycle, "step": last["step"], "words_seen": last["words_seen"], "fold": cycle % sleep["folds"],
             "folds": sleep["folds"], "wake_rows": fold, "sleep_rows": sum(replays),
             "candidates": fold * ages, "eligible": fold * ages, "buffer": buffer, "new_in_buffer": buffer // 2,
             "turnover": 0.5 if cycle else None, "selected_ever": buffer,
             "score_mean": score, "score_p5": score - 1, "score_p25": score - 0.5, "score_p50": score,
             "score_p75": score + 0.5, "score_p95": score + 1, "buffer_score_mean": score + 0.25,
             "replays": sum(replays), "replayed": buffer, "replay_times": [1, 2], "replay_samples": [buffer - 1, 1],
             "candidates_by_age": [fold] * ages, "replays_by_age": replays, "domain": ["grammar"],
             "candidates_by_domain": [fold * ages], "replays_by_domain": [sum(replays)],
             "retention_fold": [(cycle - age) % sleep["folds"] for age in range(0, ages, 2)],
             "retention_loss": [last["loss"] + 0.1 * age for age in range(0, ages, 2)]}
        )  # fmt: skip
    return lines


def score_line(words_seen: int, final: bool, task: str, uid: str, n: int, score: float) -> dict[str, Any]:
    unit = "nats" if task == "dev_loss" else "percent"
    return {"words_seen": words_seen, "final": final, "task": task, "uid": uid, "n": n, "score": score, "unit": unit, "stderr": 1.0,
            "ties": 0, "nans": 0, "rules": "honest", "backend": "mlm"}  # fmt: skip


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_study(directory: Path, vary: dict[str, list[Any]], seeds: tuple[int, ...] = (1, 2), running: int = 0) -> Path:
    """Write a study whose losses follow `final_loss`; the worst half is stopped at the rungs, the last `running` are not done."""
    directory.mkdir(parents=True, exist_ok=True)
    trials = configs(vary, seeds)
    stops = sorted({final_loss(config) for origin, config in trials if origin != "always"})
    spec = {"base": ["tiny", "weighted_replay"], "vary": vary, "always": ["epochs", "baseline_like"], "seeds": list(seeds),
            "objective": {"metric": "dev_loss", "mode": "min"}}  # fmt: skip
    with Ledger(directory) as ledger:
        ledger.append("opened", spec=spec, versions={}, precision="fp32", corpus_digest="c", tokenizer_digest="t")
        for index, (origin, config) in enumerate(trials):
            rank = stops.index(final_loss(config)) / len(stops) if origin != "always" else 0.0
            until = RUNGS[0] if rank > 0.75 else RUNGS[1] if rank > 0.5 else BUDGET
            done = index < len(trials) - running
            make_trial(ledger, directory, origin, config, until if done else 50_000, done)
    return directory


def make_trial(ledger: Ledger, directory: Path, origin: str, config: dict[str, Any], until: int, done: bool) -> str:
    parsed = load_config(config)
    trial, generator = trial_id(parsed, "corpus"), np.random.default_rng([config["seed"], round(1e6 * final_loss(config))])
    shift = 0.01 * generator.normal()
    ledger.append(
        "proposed", trial=trial, configuration=configuration_id(parsed, "corpus"), seed=config["seed"], config=config, origin=origin
    )
    steps = step_lines(config, until, generator)
    scores = []
    for milestone in [words for words in all_milestones(BUDGET) + list(RUNGS) if words <= until]:
        scores.append((milestone, final_loss(config) + shift + 3.6 * float(np.exp(-milestone / 40_000))))
    scores.sort()
    rows = [score_line(words, False, "dev_loss", "dev", 500, value) for words, value in scores]
    for words, value in scores:
        decision = "STOP" if words == until and until < BUDGET and done else "CONTINUE"
        metrics = {"dev_loss": value, "perplexity": float(np.exp(value))}
        ledger.append("reported", trial=trial, milestone=words, words_seen=words, metrics=metrics, value=value, decision=decision)
    if done:
        pairs = {uid: float(np.clip(110 - 11 * scores[-1][1] + generator.normal(), 40, 100)) for uid in ("anaphor", "agreement", "npi")}
        rows += [score_line(steps[-1]["words_seen"], True, "pairs", uid, 100, value) for uid, value in pairs.items()]
        ledger.append("ended", trial=trial, state="complete" if until == BUDGET else "stopped", message=None)
        ledger.append("scored", trial=trial, words_seen=steps[-1]["words_seen"], tasks={"pairs": float(np.mean(list(pairs.values())))})
    write_lines(directory / "trials" / trial / "steps.jsonl", steps)
    write_lines(directory / "trials" / trial / "scores.jsonl", rows)
    write_lines(directory / "trials" / trial / "cycles.jsonl", cycle_lines(config, steps))
    return trial


SMALL = {"sleep.strategy": ["random", "weighted"], "sleep.length": [{"ratio": 1.0}, {"ratio": 3.0}]}


@pytest.fixture
def study_maker() -> Callable[..., Path]:
    return make_study


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four schedules and two baselines on two seeds, all ended. To be read only: tables are not in it."""
    return make_study(tmp_path_factory.mktemp("runs") / "small", SMALL)
