"""Files that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from sleep_tune.errors import UserError
from sleep_tune.files import write_text


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, tmp_path):
        with pytest.raises(UserError, match=f"^{place}: is no file, and would be replaced by one$"):
            write_text(place, "text")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").read_text() == "text"
