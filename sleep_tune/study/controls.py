"""The matched controls of a study: which trials are due one, what it is, and how many there will be.

A trial of the search that slept is due a control once its configuration is complete on every seed of the study: then it is ranked, and the
difference to its control is told over the same seeds. A control costs a whole budget, so what a scheduler stopped, or what broke on
some seed, gets none. What a control trains on is `sleep.matched`'s.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator

from sleep_tune.config import Config, Epochs
from sleep_tune.digests import canonical_json, digest
from sleep_tune.study.ledger import BESIDE, LedgerView, State, TrialRecord, matched_to
from sleep_tune.study.spec import MATCHED, Study


def control_config(pair: Config, trial: str) -> Config:
    """The control of `trial`, whose config is `pair`: it differs in its schedule alone."""
    return pair.model_copy(update={"sleep": None, "epochs": Epochs(matched_to=trial)})


def control_configuration(pair: str) -> str:
    """12 hex characters for the controls of a configuration: one group over the seeds, though each names another trial."""
    return digest(canonical_json([pair, MATCHED]), size=6)


def pair_of(view: LedgerView, record: TrialRecord) -> TrialRecord | None:
    """The trial that `record` is the matched control of; None where it is no control."""
    return view.trials.get(matched_to(record.config) or "")


def controlled(view: LedgerView) -> dict[str, str]:
    """Configuration of matched controls -> that of the sleep they are the controls of."""
    pairs = {record.configuration: pair_of(view, record) for record in view.trials.values() if record.origin == "matched"}
    return {control: pair.configuration for control, pair in pairs.items() if pair is not None}


def due(view: LedgerView, seeds: Collection[int]) -> Iterator[TrialRecord]:
    """The trials that a control is due for, whether it is there or not, in the order of the ledger and of `seeds`."""
    for records in _slept(view):
        complete = {record.seed: record for record in records if record.state is State.COMPLETE}
        if complete.keys() >= set(seeds):
            yield from (complete[seed] for seed in seeds)


def may_come(view: LedgerView, seeds: Collection[int]) -> bool:
    """Whether a trial that runs may still make controls due."""
    return any(_open(records, seeds) for records in _slept(view))


def planned_trials(study: Study, view: LedgerView) -> int:
    """All trials as far as they are known: those of the plan and the controls that are due, or that must come where nothing is stopped."""
    if not study.spec.matched:
        return study.trials_planned
    seeds = study.spec.seeds
    count = sum(1 for _ in due(view, seeds))
    if study.reduction is None:
        groups = list(_slept(view))
        hopeful = sum(any(record.state is State.RUNNING for record in records) and not _lost(records) for records in groups)
        count += len(seeds) * (hopeful + max(0, study.points_planned - len(groups)))
    return study.trials_planned + count


def _slept(view: LedgerView) -> Iterator[list[TrialRecord]]:
    """The trials of the search that sleep, by configuration."""
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in view.trials.values():
        if record.origin not in BESIDE and record.config.get("sleep"):
            groups[record.configuration].append(record)
    yield from groups.values()


def _lost(records: Collection[TrialRecord]) -> bool:
    return any(record.state not in (State.RUNNING, State.COMPLETE) for record in records)


def _open(records: Collection[TrialRecord], seeds: Collection[int]) -> bool:
    running = any(record.state is State.RUNNING for record in records)
    return running and not _lost(records) and {record.seed for record in records} >= set(seeds)
