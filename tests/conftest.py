"""Tests see nothing that the shell which starts them has set for other work."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from avion_core.environment import FOREIGN_VARIABLES
from tests.support import warm_python

for name in ("SNAKEMAKE_PROFILE", "OPENAI_API_KEY", *FOREIGN_VARIABLES):
    os.environ.pop(name, None)
# Servers of tests are on this machine, which a proxy does not reach.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
# What `nohup` and a shell's `&` ignore is heard by the programs that tests start.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
with suppress(ModuleNotFoundError):  # tests/gpu runs without it
    from hypothesis import settings

    # A busy machine is no failure.
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")

MOST_WORKERS = 8
"""More than these wait for the last long file."""
LONG_FIRST = ("workflow", "unit/train", "unit/media")
"""Folders of tests, those with the longest files first; Slurm's tests come before, all others after."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cuda", "cpu"), default="cuda", help="where tests/gpu runs")


def pytest_configure() -> None:
    warm_python.begin()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than cores, as tests also wait: for servers, clocks and queues."""
    return min(len(os.sched_getaffinity(0)) + 2, MOST_WORKERS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give pytest-xdist's workers the long files first, or one of them ends alone with a long one.

    With `--no-loadscope-reorder`; otherwise xdist begins with the files of the most tests, which are short.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    if item.get_closest_marker("slurm"):
        return -1
    tests = Path(__file__).parent
    places = (place for place, folder in enumerate(LONG_FIRST) if item.path.is_relative_to(tests / folder))
    return next(places, len(LONG_FIRST))
