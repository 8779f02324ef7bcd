"""Beside every result in the official layout, what the official files do not tell: which model it is of, under whose rules it was made.

`made_from.json` lies beside predictions.json; the official collation does not look at it. It is published before the files that it is
about, and these are taken away first: where it lies, it vouches for them.
"""

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sleep_tune.errors import UserError
from sleep_tune.evaluation.challenge import revision_of
from sleep_tune.evaluation.model_source import HUB
from sleep_tune.evaluation.strict_json import BadJson, parse
from sleep_tune.files import write_json

RECORD, PREDICTIONS = "made_from.json", "predictions.json"


@dataclass(frozen=True)
class Identity:
    """A model whose results are kept: a digest of its files (`ModelSource.digest`), and where it is, so that one that is trained again in
    its place is told from another one of the same name."""

    digest: str
    place: str

    @classmethod
    def of(cls, digest: str, place: str) -> "Identity":
        """Of a directory by its absolute path, or of the hub's `hub:ID`."""
        return cls(digest, place if place.startswith(HUB) else os.path.abspath(place))


@dataclass(frozen=True)
class Record:
    """Of what a result is made. `edition`: whose candidates its items have; "": all years' are alike."""

    model: str | None  # digest; None: not told
    place: str | None
    rules: str
    edition: str
    items: int
    ties: int = 0
    nans: int = 0
    unofficial: tuple[str, ...] = ()  # why it is not what the official pipeline would have made


def begin_results(place: Path, record: Record) -> None:
    """Take the old predictions in `place` away and publish the record of the new ones."""
    for name in (PREDICTIONS, "surprisal.json", "aoa_score.json"):
        (place / name).unlink(missing_ok=True)
    write_json(place / RECORD, asdict(record))


def read_record(place: Path) -> Record | None:
    """The record in a directory of results, None where there is none: results of another program. Raises UserError for a damaged one."""
    path = place / RECORD
    if not path.is_file():
        return None
    try:
        raw = parse(path.read_bytes())
        values = {field.name: raw[field.name] for field in fields(Record)}
        kinds = {"items": int, "ties": int, "nans": int, "rules": str, "edition": str, "model": str | None, "place": str | None}
        whole = all(isinstance(values[name], kind) for name, kind in kinds.items()) and isinstance(values["unofficial"], list)
        if not whole or not all(isinstance(reason, str) for reason in values["unofficial"]):
            raise TypeError("a value of another kind")
        return Record(**{**values, "unofficial": tuple(values["unofficial"])})
    except (BadJson, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:80]}); delete {place} and score again") from None


def models_in(directory: Path) -> dict[str, tuple[Path, str | None]]:
    """The models that results below `directory` are of, each with a directory of its results and where it was. Raises UserError for a
    damaged record."""
    found: dict[str, tuple[Path, str | None]] = {}
    for path, record in _records(directory):
        if record.model is not None:
            found.setdefault(record.model, (path, record.place))
    return found


def rules_in(directory: Path) -> list[str]:
    """The rules that results below `directory` are made under, each once. Raises UserError for a damaged record."""
    return list(dict.fromkeys(record.rules for _, record in _records(directory)))


def refuse_other_model(out: Path, model_name: str, revision: str, model: Identity) -> None:
    """Raises UserError where `out` has results of another model under the same name and revision: they would be taken for one model's."""
    name = revision_of(revision) or revision
    if (out / "scores.json").exists():
        directories = [out / "results" / model_name / name]
    else:  # which would say whose the others are: a command was killed before
        directories = sorted((out / "results").glob(f"*/{name}"))
    for directory, record in [(place, record) for place in directories for _, record in _records(place)]:
        if record.model not in (None, model.digest) and record.place != model.place:
            whose = f"the model {record.place}" if record.place else "another model"
            raise UserError(f"--out = {out}: {directory} holds results of {whose}; choose another --out, or delete that directory")


def refuse_other_scores(out: Path, revision: str, model: Identity) -> None:
    """Raises UserError where the tables in `out`, which would be replaced, are of another model, and not of this one as it was before."""
    try:
        scores = parse((out / "scores.json").read_bytes())
    except (OSError, BadJson):
        return
    place, digest = (scores.get(name) if isinstance(scores, dict) else None for name in ("place", "digest"))
    same = digest == model.digest or not isinstance(place, str) or place == model.place
    if not same and scores.get("revision") == revision:
        raise UserError(f"--out = {out}: its scores.json is of the model {place}; choose another --out for {model.place}")


def claim(out: Path, model_name: str, revision: str, model: Identity) -> None:
    """The same; and what is there of the model as it was before it was trained again goes: its results are of no model any more."""
    refuse_other_model(out, model_name, revision, model)
    for place, record in _records(out / "results" / model_name / revision):
        if record.model not in (None, model.digest):
            for path in [path for path in place.iterdir() if path.is_file()]:
                path.unlink()


def _records(directory: Path) -> list[tuple[Path, Record]]:
    """Every record below a directory, and where it is."""
    places = [path.parent for path in sorted(directory.rglob(RECORD))]
    return [(place, record) for place in places if (record := read_record(place)) is not None]
