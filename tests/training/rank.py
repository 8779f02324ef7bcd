"""One worker of several, as a process: `python rank.py RANK SIZE FOLDER` does the jobs of FOLDER/jobs.json in order, all in one team.

What each came to on this rank is in FOLDER/JOB.RANK.npz; rank 0 saves the state where a job asks for it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sleep_tune.config import load_config
from sleep_tune.data.token_store import open_store
from sleep_tune.errors import RunError
from sleep_tune.training.checkpoint import restore, snapshot
from sleep_tune.training.loop import Run, advance
from sleep_tune.training.parallel import Team
from sleep_tune.workers import on_loopback

CPU = torch.device("cpu")


def do(job: dict[str, Any], store: str, team: Team | None) -> dict[str, Any]:
    """Train as a job says: from its beginning or a saved state, saving one after step `stop`, to the end of the budget."""
    run = Run(load_config(job["config"]), open_store(Path(store)), CPU)
    run.team = team
    state = run.new_state()
    if job.get("resume"):
        state = restore(run, torch.load(job["resume"], weights_only=True))
    losses, where, buffers, said = [], [], [], ""
    try:
        for record in advance(run, state, run.config.budget_words):
            losses.append(record.loss)
            where.append([record.step, record.cycle, record.phase == "sleep", record.words_seen, record.tokens])
            if not buffers or not np.array_equal(buffers[-1], state.buffer_k):
                buffers.append(state.buffer_k)
            if record.step == job.get("stop") and job.get("save") and (team is None or team.rank == 0):
                torch.save(snapshot(run, state, {}), job["save"])
            if job.get("nudge") == record.step and team is not None and team.rank == 1:
                run.network.flat.data[0] += 1e-7
    except RunError as error:
        said = str(error)
    known = {f"candidates_{name}": values for name, values in vars(state.candidates).items()}
    arrays = {name: getattr(state, name) for name in ("exposures_N", "measured_F", "frozen_U")}
    return {
        "loss": np.array(losses),
        "where": np.array(where),
        "buffers": np.concatenate(buffers) if buffers else np.empty(0),
        "flat": run.network.flat.detach().numpy(),
        "moments": np.concatenate([state["exp_avg"].numpy() for state in run.optimizer.state.values()] or [np.empty(0)]),
        "importance": state.importance_P.numpy(),
        "diverged": state.diverged,
        "said": said,
        **known,
        **arrays,
    }


def main() -> None:
    torch.set_num_threads(1)
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    asked = json.loads((folder / "jobs.json").read_text())
    with on_loopback():
        team = Team(rank, size, str(folder / "meeting"), CPU)
    for name, job in asked["jobs"].items():
        team.sum(torch.zeros(1))  # the state that the last job saved is there
        np.savez(folder / f"{name}.{rank}.npz", **do(job, asked["store"], team))
    team.close()


if __name__ == "__main__":
    main()
