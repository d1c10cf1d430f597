"""Folders that the workers of a test run share."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.shared import made_once


class Factory:
    """What pytest gives one of pytest-xdist's workers."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def getbasetemp(self) -> Path:
        return self.base


@pytest.fixture
def workers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    return [Factory(tmp_path / f"popen-gw{number}") for number in range(3)]


def test_workers_at_the_same_time_make_a_folder_once(workers):
    made, together = [], threading.Barrier(len(workers))

    def make(folder):
        made.append(folder)
        time.sleep(0.3)  # the others come meanwhile
        (folder / "file").write_text("whole")

    def work(worker):
        together.wait(10)
        return (made_once(worker, "it", make) / "file").read_text()

    with ThreadPoolExecutor(len(workers)) as pool:
        assert list(pool.map(work, workers)) == ["whole"] * len(workers)
    assert len(made) == 1


def test_after_a_failure_the_next_worker_starts_over(workers):
    def fail(folder):
        (folder / "half").touch()
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        made_once(workers[0], "it", fail)
    folder = made_once(workers[1], "it", lambda folder: (folder / "file").touch())
    assert [path.name for path in folder.iterdir()] == ["file"]
