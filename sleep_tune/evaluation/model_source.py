"""The models that scores are asked of, on disk or on the Hugging Face hub: their names in results, their digests, loading them."""

import contextlib
import gc
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

from sleep_tune.digests import digest
from sleep_tune.errors import UserError, one_line
from sleep_tune.evaluation.strict_json import BadJson, parse
from sleep_tune.files import file_digest

HUB = "hub:"
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CAUSAL = ("LMHeadModel", "ForCausalLM")  # how the classes of left-to-right models are called
_MASKED = "ForMaskedLM"


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For imports and loading: they make hundreds of thousands of objects that stay, and searching these for garbage, again and again,
    takes a fifth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@dataclass(frozen=True)
class ModelSource:
    """A model directory or `hub:ID`. `revision` names its results; of a hub model, also what is loaded. `trusted`: code that comes with
    it may run."""

    place: str
    revision: str = "main"
    trusted: bool = False

    @property
    def hub(self) -> bool:
        """Whether the model is one of the hub's."""
        return self.place.startswith(HUB)

    @property
    def name(self) -> str:
        """As the official pipeline names a model's results: the last part of its path, less what follows a dot."""
        return Path(self.place.removeprefix(HUB)).stem if self.hub else Path(self.place).resolve().stem

    @cached_property
    def digest(self) -> str:
        """Of the names and contents of the directory's files; of id and revision of a hub model. Raises UserError for unreadable files."""
        if self.hub:
            return digest(self.place, self.revision)
        try:
            files = sorted(path for path in Path(self.place).iterdir() if path.is_file())
            return digest(*(part for path in files for part in (path.name, file_digest(path))))
        except OSError as error:
            raise UserError(f"model = {self.place}: cannot be read ({error.strerror})") from None

    def config(self) -> dict[str, Any]:
        """The directory's config.json; {} for a hub model. Raises UserError for what is neither, and for a bad name of a revision."""
        if not _REVISION.fullmatch(self.revision):
            raise UserError(f"--revision = {self.revision}: must be a branch or tag: letters, digits, . _ -")
        if not self.name.strip("."):
            raise UserError(f"model = {self.place}: must be a directory with a name, or {HUB}ID")
        if self.hub:
            return {}
        directory = Path(self.place)
        try:
            if not directory.is_dir():
                hint = f"(a model of the Hugging Face hub is written {HUB}{self.place})"
                raise UserError(f"model = {self.place}: no such model directory {hint}")
            config = parse((directory / "config.json").read_bytes())
        except FileNotFoundError:
            inside = directory / "model"
            hint = f" (did you mean {inside}?)" if (inside / "config.json").is_file() else ""
            raise UserError(f"model = {self.place}: no config.json in it; must be a directory that save_pretrained wrote{hint}") from None
        except BadJson as error:
            raise UserError(f"{directory / 'config.json'}: {error}") from None
        except OSError as error:
            raise UserError(f"model = {self.place}: cannot be read ({error.strerror})") from None
        return config if isinstance(config, dict) else {}

    @uncollected()
    def load(self, backend: str) -> tuple[Any, Any]:
        """Model (fp32, on a GPU if there is one) and tokenizer. Raises UserError where there is none or no head for `backend`."""
        import torch
        import transformers
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        source, where = self.place.removeprefix(HUB), {"revision": self.revision} if self.hub else {}
        how: dict[str, Any] = {**where, "trust_remote_code": self.trusted}
        kind = AutoModelForCausalLM if backend == "causal" else AutoModelForMaskedLM
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **how)
            loaded: Any = kind.from_pretrained(source, output_loading_info=True, **how)
        except Exception as error:  # transformers raises nearly anything for a directory that is not what it says
            if "trust_remote_code" in str(error):
                raise UserError(f"model = {self.place}: brings code of its own; --trust-remote-code runs it (read it first)") from None
            other = _other_kind(self, backend)
            if other:
                raise UserError(f"model = {self.place}: {other}") from None
            why = shorten(one_line(error).partition(" Model type should be one of ")[0], 300, placeholder=" …")
            raise UserError(f"model = {self.place}: cannot be loaded for backend {backend} ({why})") from None
        if {*tokenizer.get_vocab().values()} <= {*tokenizer.all_special_ids}:  # what transformers makes up where there is none
            raise UserError(f"model = {self.place}: no tokenizer in it, or one without words: put the files of the model's own there")
        model, loading = loaded
        if loading["missing_keys"]:
            first = sorted(loading["missing_keys"])[0]
            raise UserError(f"model = {self.place}: has no weights for {first}, which backend {backend} needs (another backend?)")
        return model.float().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _other_kind(source: ModelSource, backend: str) -> str:
    """What a model that cannot be loaded for a backend is instead, if its config.json names a class of the other kind."""
    name = _class_name(source.config())
    if backend != "causal" and name.endswith(_CAUSAL):
        return f"is a {name}, not a masked model: use --backend causal"
    return f"is a {name}, not a causal model: use --backend mlm" if backend == "causal" and name.endswith(_MASKED) else ""


def _class_name(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def backend_of(config: dict[str, Any]) -> str:
    """mlm, unless the model says that it reads from left to right."""
    return "causal" if _class_name(config).endswith(_CAUSAL) else "mlm"
