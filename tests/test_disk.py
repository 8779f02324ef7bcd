"""A disk that fills up, for real: a file system of a given size, made for one shell only."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from micro_runs import train_command

OUT = "full"
ROOM = """
mount -t tmpfs -o size={size}k none "$0" || exit
{command}
first=$?
mount -o remount,size=64m "$0"
{command}
echo "exits $first $?"
"""


def filled(size_kb: int, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """`command` where the directory OUT of `folder` has `size_kb`, then once more where it has room; what both say."""
    (folder / OUT).mkdir()
    script = ROOM.format(size=size_kb, command=shlex.join(command))
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, OUT]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture
def own_disks() -> None:
    """Skips where a user cannot make a file system of his own."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a file system of his own")


@pytest.mark.usefixtures("own_disks")
@pytest.mark.parametrize("size_kb", [4, 8, 100, 700])
def test_a_run_without_ray_names_the_full_disk_and_goes_on_when_there_is_room(tmp_path: Path, size_kb: int):
    command = train_command(f"{OUT}/run", 6000)
    done = filled(size_kb, command, tmp_path)
    assert done.stdout.splitlines()[-1] == "exits 1 0", done.stderr
    where = f"error: disk full: {re.escape(str(tmp_path / OUT))}, where {OUT}/run"
    room = r"\S* lies, has \S+ MB free of the \S+ MB needed; what is written is intact: .*\n"
    assert re.fullmatch(where + room, done.stderr), done.stderr
