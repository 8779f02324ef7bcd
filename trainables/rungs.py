"""Stock ASHA behind the study's ledger: it is primed from recorded reports, and each of its decisions is on disk before it acts."""

from collections.abc import Sequence
from dataclasses import dataclass

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from sleep_tune.errors import RunError
from sleep_tune.study.ledger import BESIDE, CONTINUE, STOP, LedgerView


@dataclass(frozen=True)
class Stub:
    """All that ASHA reads of a trial. Its id is the configuration's in the ledger; Tune's own ids are others at each start."""

    trial_id: str


class Rungs:
    """Ray's ASHAScheduler, one bracket, at rungs of our choosing.

    Stock rungs are `grace_period * reduction ** k`. Rungs of other shares are met exactly all the same because the scheduler's time is
    not words but `reduction ** k` at the k-th rung, which is where a scheduler with grace period 1 has its k-th rung; a milestone that
    is no rung is no time at all, and never reaches it.

    A configuration is judged once at each rung, by the seed that gets there first; its other seeds share the verdict. Judged one by
    one, seeds of a configuration part at the rungs, and hardly one is left whose mean over seeds can be ranked.
    """

    def __init__(self, rungs: Sequence[int], reduction: float, mode: str) -> None:
        self._time = {words: reduction**k for k, words in enumerate(rungs)}
        # half a rung beyond the last one: the number of rungs is the floor of a logarithm, which must not fall on the edge
        self._asha = ASHAScheduler(
            time_attr="time",
            metric="value",
            mode=mode,
            grace_period=1,
            reduction_factor=reduction,
            max_t=reduction ** (len(rungs) - 0.5),
            brackets=1,
        )
        self._known: set[str] = set()
        self._judged: dict[tuple[str, int], str] = {}

    def decide(self, configuration: str, milestone: int, value: float) -> str:
        """CONTINUE or STOP for a trial of `configuration` that reports `value` at `milestone` (nominal words)."""
        if milestone not in self._time:
            return CONTINUE
        if (configuration, milestone) not in self._judged:
            self._judged[configuration, milestone] = self._judge(configuration, milestone, value)
        return self._judged[configuration, milestone]

    def _judge(self, configuration: str, milestone: int, value: float) -> str:
        stub = Stub(configuration)
        if configuration not in self._known:
            self._asha.on_trial_add(None, stub)  # type: ignore[arg-type]
            self._known.add(configuration)
        decision = self._asha.on_trial_result(None, stub, {"time": self._time[milestone], "value": value})  # type: ignore[arg-type]
        return STOP if decision == TrialScheduler.STOP else CONTINUE


class Deciding:
    """The decisions of a study: stock ASHA's for the trials of the search, CONTINUE for those that run beside it."""

    def __init__(self, rungs: Rungs | None) -> None:
        self._rungs = rungs

    def decide(self, origin: str, configuration: str, milestone: int, value: float) -> str:
        """CONTINUE or STOP. Trials of `always`, and matched controls, are in no rung."""
        if self._rungs is None or origin in BESIDE:
            return CONTINUE
        return self._rungs.decide(configuration, milestone, value)

    def replay(self, view: LedgerView) -> None:
        """Take in every recorded report in its order. Raises RunError where another decision comes out than the recorded one."""
        place = dict.fromkeys(view.trials, 0)
        for trial, milestone in view.history:
            record = view.trials[trial]
            report = record.reports[place[trial]]
            place[trial] += 1
            decision = self.decide(record.origin, record.configuration, milestone, report.value)
            if decision != report.decision:
                raise RunError(
                    f"{view.path}: trial {trial} at milestone {milestone}: {report.decision} is recorded and the scheduler now decides "
                    f"{decision}: the study was run with another scheduler; give this one another --name"
                )
