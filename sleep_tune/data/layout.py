"""BabyLM's file layout: which files of a directory are text of which domain and split."""

from pathlib import Path

from sleep_tune.errors import UserError, nearest

SPLIT_NAMES = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}


def find_files(path: Path) -> dict[str, dict[str, Path]]:
    """Files by split and domain."""
    if not path.exists():
        near = nearest(path.name, [item.name for item in path.parent.iterdir() if item.is_dir()]) if path.parent.is_dir() else ""
        raise UserError(f"data directory {path}: does not exist{near if 'did you mean' in near else ''}")
    if not path.is_dir():
        raise UserError(f"data directory {path}: is not a directory")
    try:
        return _files_by_split(path)
    except OSError as error:
        raise UserError(f"data directory {path}: cannot be read ({error.strerror})") from error


def _files_by_split(path: Path) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {"train": {}, "dev": {}, "test": {}}
    folders = [(path / name, split) for name, split in SPLIT_NAMES.items() if (path / name).is_dir()]
    default = "" if any(split == "train" for _, split in folders) else "train"  # of <domain>.txt in `path` itself
    for folder, folder_split in [*folders, (path, "")]:
        for file in sorted(folder.iterdir()):
            domain, split = parse_name(file.name)
            split = split or folder_split or default
            if not domain or not split or not file.is_file() or (folder_split and split != folder_split):
                continue
            if domain in found[split]:
                raise UserError(f"data directory {path}: {found[split][domain].name} and {file.name} are both {split} text of {domain}")
            found[split][domain] = file
    return found


def parse_name(name: str) -> tuple[str, str]:
    """Domain and split of a file name, each "" if it has none: childes.train, childes.train.txt, childes.txt, train.txt."""
    stem = name.removesuffix(".txt")
    if name.startswith(".") or stem.lower() in ("readme", "license"):
        return "", ""
    domain, dot, suffix = stem.rpartition(".")
    if dot and suffix in SPLIT_NAMES:
        return domain, SPLIT_NAMES[suffix]
    if stem != name:
        return ("text", SPLIT_NAMES[stem]) if stem in SPLIT_NAMES else (stem, "")
    return "", ""


def nothing_found(path: Path) -> str:
    """Why `path` is refused: no training text in it, perhaps in a folder of it."""
    inside = sorted(child for child in path.iterdir() if child.is_dir() and _holds_text(child))
    hint = f" (did you mean {inside[0]}?)" if inside else ""
    allowed = "<domain>.train, <domain>.train.txt or <domain>.txt, or a folder train/"
    return f"data directory {path}: is empty of training text: must hold {allowed}{hint}"


def _holds_text(path: Path) -> bool:
    try:
        return bool(find_files(path)["train"])
    except UserError:
        return False
