"""Corpora on the Hugging Face hub, fetched once through `datasets` into the cache, as files of BabyLM's layout."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sleep_tune.data.cache import OUT_OF_ROOM, build_once
from sleep_tune.data.layout import SPLIT_NAMES, parse_name
from sleep_tune.digests import digest
from sleep_tune.errors import UserError, one_line
from sleep_tune.files import cache_directory

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo

TOKEN_VARIABLE = "HF_READ_TOKEN"
_TIMEOUT_S = 10


def place(identifier: str) -> Path:
    """The directory that holds the corpus `identifier` once it is fetched; remove it to fetch again."""
    return cache_directory() / "hub" / f"{identifier.replace('/', '--')}-{digest(identifier, size=4)}"


def fetch(identifier: str, say: Callable[[str], None]) -> None:
    """Bring the text of `identifier` into its `place`, unless it is there. Raises UserError, in one line, where that cannot be done."""
    if place(identifier).is_dir():
        return
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT_S))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    token = os.environ.get(TOKEN_VARIABLE) or None
    info = _look_up(identifier, token)
    say(f"fetching {identifier} from the hub")
    build_once(place(identifier), Path.is_dir, lambda new: _download(identifier, info, token, new))


def _look_up(identifier: str, token: str | None) -> "DatasetInfo":
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return HfApi(token=token).dataset_info(identifier, timeout=_TIMEOUT_S)
    except HFValidationError as error:
        raise UserError(f"data hub:{identifier}: is not a hub id: must be owner/name") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise UserError(f"data hub:{identifier}: no such dataset, or {TOKEN_VARIABLE} may not read it (HTTP {status})") from error
        raise _unreachable(identifier, error) from error
    except Exception as error:  # what the network raises depends on the HTTP library that huggingface_hub was built on
        raise _unreachable(identifier, error) from error


def _unreachable(identifier: str, error: Exception) -> UserError:
    return UserError(f"data hub:{identifier}: the hub cannot be reached ({one_line(error)[:100]}); give --data DIR, or go online once")


def _download(identifier: str, info: "DatasetInfo", token: str | None, directory: Path) -> None:
    names = [sibling.rfilename for sibling in info.siblings or []]
    files = [(name, *_domain_and_split(name)) for name in names]
    wanted = [(name, domain, split) for name, domain, split in files if domain and split in ("train", "dev")]
    try:
        if wanted:
            _download_text(identifier, info, token, wanted, directory)
        else:
            _download_table(identifier, info, token, directory)
    except UserError:
        raise
    except OSError as error:
        if error.errno in OUT_OF_ROOM or str(error.filename).startswith(str(directory)):
            raise  # this machine is at fault, not the hub
        raise _unreachable(identifier, error) from error
    except Exception as error:
        raise UserError(f"data hub:{identifier}: `datasets` cannot read it ({one_line(error)[:150]})") from error


def _domain_and_split(name: str) -> tuple[str, str]:
    """As `parse_name`, with the split from a folder of that name where the file's own name has none."""
    path = Path(name)
    domain, split = parse_name(path.name)
    folders = [SPLIT_NAMES[part] for part in path.parts[:-1] if part in SPLIT_NAMES]
    return domain, split or (folders[-1] if folders else "train")


def _download_text(
    identifier: str, info: "DatasetInfo", token: str | None, wanted: Iterable[tuple[str, str, str]], directory: Path
) -> None:
    """Files of one domain each: BabyLM's `<domain>.train.txt`."""
    from datasets import load_dataset

    for name, domain, split in wanted:
        address = f"hf://datasets/{identifier}@{info.sha}/{name}"
        rows = load_dataset("text", data_files={"train": address}, split="train", token=token)
        _write(directory / split / f"{domain}.{split}", (row["text"] for row in rows))


def _download_table(identifier: str, info: "DatasetInfo", token: str | None, directory: Path) -> None:
    """A dataset with a column `text` and no file a domain: all of a split is one domain, named after the dataset."""
    from datasets import load_dataset

    domain = identifier.rpartition("/")[2].lower()
    for name, rows in load_dataset(identifier, revision=info.sha, token=token).items():
        split = SPLIT_NAMES.get(str(name), "")
        if "text" not in rows.column_names:
            raise UserError(f"data hub:{identifier}: has columns {', '.join(rows.column_names)}; a column `text` is needed")
        if split in ("train", "dev"):
            _write(directory / split / f"{domain}.{split}", (row["text"] for row in rows))


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line.rstrip("\n") + "\n" for line in lines)
