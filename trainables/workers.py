"""The other workers of a trial that trains on several: actors in the trial's placement group, the trainable itself being the first."""

import uuid
from typing import Any

import ray
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sleep_tune.config import Resources
from sleep_tune.training.parallel import Team, WorkerLost
from sleep_tune.training.run import computing_device
from sleep_tune.workers import Told, on_loopback, work
from trainables.assignment import CONTROL, Assignment

SAY_S = 10.0  # for an actor to say what ended it


def bundles(resources: Resources) -> list[dict[str, float]]:
    """What each worker is given of the trial's resources, in steps of Ray's 1/10,000."""
    share = {"CPU": resources.cpus / resources.workers, "GPU": resources.gpus / resources.workers}
    return [{name: int(value * 1e4 + 1e-6) / 1e4 for name, value in share.items() if value}] * resources.workers


@ray.remote
class Worker:
    """One of the others. It ends with the trainable that made it, or before, when that one kills it."""

    def node(self) -> str:
        """Where it is; it is ready then."""
        return str(ray.get_runtime_context().get_node_id())

    def work(self, told: Told, alone: bool) -> None:
        """Train with the others; `alone`: all of them are on this machine."""
        if alone:
            with on_loopback():
                work(told)
        else:
            work(told)


class Workers:
    """The workers of one trial beside the trainable. Raises what Ray raises where one does not start."""

    def __init__(self, told: Assignment) -> None:
        resources = told.config.resources
        share, group = bundles(resources), get_current_placement_group()
        assert group is not None  # Tune makes one for each trial
        self._config, self._actors, self._working = told.config, [], []
        self._team: Team | None = None
        for rank in range(1, resources.workers):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            options: dict[str, Any] = {"num_cpus": share[rank]["CPU"], "num_gpus": share[rank].get("GPU", 0)}
            self._actors.append(Worker.options(scheduling_strategy=place, **options).remote())  # type: ignore[attr-defined]
        nodes = ray.get([actor.node.remote() for actor in self._actors])
        self._alone = set(nodes) == {ray.get_runtime_context().get_node_id()}
        meeting = told.study_directory / CONTROL  # beside it: in Ray's disposable folder, which all nodes see
        self._meeting = meeting.with_name(f"meeting_{uuid.uuid4().hex}")
        for rank, actor in enumerate(self._actors, 1):
            worker = Told(told.config, told.prepared.directory, rank, str(self._meeting))
            self._working.append(actor.work.remote(worker, self._alone))

    def meet(self) -> Team:
        """The team, this process its first worker. Raises WorkerLost where another one does not come."""
        resources, meeting, device = self._config.resources, str(self._meeting), computing_device(self._config)
        if self._alone:
            with on_loopback():
                self._team = Team(0, resources.workers, meeting, device)
        else:
            self._team = Team(0, resources.workers, meeting, device)
        self._meeting.unlink(missing_ok=True)
        return self._team

    def cause(self, error: Exception) -> Exception:
        """What made another worker end, where `error` is that it is gone; else `error` itself."""
        if not isinstance(error, WorkerLost):
            return error
        ended, _ = ray.wait(self._working, num_returns=len(self._working), timeout=SAY_S)
        for working in ended:
            try:
                ray.get(working)
            except Exception as said:
                found = getattr(said, "cause", None) or said
                if not isinstance(found, WorkerLost):
                    return found
        return error

    def close(self) -> None:
        """End the actors, and the team."""
        for actor in self._actors:
            ray.kill(actor)
        if self._team is not None:
            self._team.close()
