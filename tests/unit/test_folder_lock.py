"""The record of the Snakemake that holds the lock on a folder."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from avion_core import folder_lock
from avion_core.folder_lock import OWNER, claim_folder, forget_dead_owner, release_folder


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock file of Snakemake's."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".snakemake/locks/0.output.lock"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@pytest.fixture
def other():
    """A process that lives until the end of the test."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield psutil.Process(process.pid)
        process.kill()


def test_a_process_claims_and_releases(lock):
    claim_folder()
    assert json.loads(OWNER.read_text())[1] == os.getpid()
    forget_dead_owner()
    assert lock.exists() and OWNER.exists()
    release_folder()
    assert not OWNER.exists()


def test_one_with_other_targets_leaves_the_record_of_the_first(lock, other):
    record = folder_lock._record(other)
    OWNER.write_text(json.dumps(record))
    claim_folder()
    release_folder()
    assert json.loads(OWNER.read_text()) == record
    other.kill()
    other.wait()
    forget_dead_owner()
    assert not lock.exists() and not OWNER.exists()


@pytest.mark.parametrize("record", ["", "[1]", "[1, 2, 3]", json.dumps(["another machine", 1, 0.0])])
def test_a_lock_without_a_known_owner_stays(lock, record):
    OWNER.write_text(record)
    forget_dead_owner()
    assert lock.exists()
    claim_folder()
    assert json.loads(OWNER.read_text())[1] == os.getpid()
