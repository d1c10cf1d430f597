"""Files on a command line come back as they were, whatever their paths hold."""

import shlex
from pathlib import Path

import pytest

from avion_core.file_arguments import file_words, named_files, parse_files


def test_files_come_back_through_a_shell():
    files = {"clips_1": "it's $HOME & (1)*/a=b.arrow", "chunks": 'the "best" `c`; #1'}
    parsed = parse_files(shlex.split(file_words(files)), required=["chunks"])
    assert parsed == {name: Path(path) for name, path in files.items()}


def test_absent_inputs_are_left_out():
    inputs = {"chunks": "c", "start_weights": [], "packets": ["p"]}
    assert named_files(inputs.items(), leave_out=["packets"]) == {"chunks": "c"}


def test_several_inputs_of_one_name_are_numbered():
    inputs = {"start_weights": ["vit.pt", "bert.pt"], "chunks": ["c"]}
    files = {"start_weights": "vit.pt", "start_weights_2": "bert.pt", "chunks": "c"}
    assert named_files(inputs.items()) == files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chunks"], "--files chunks: write name=path"),
        (["chunks="], "write name=path"),
        (["chunks=a", "chunks=b"], "'chunks' is given twice"),
        (["clips=a"], "'chunks' is missing; add chunks=path"),
    ],
)
def test_other_words_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_files(words, required=["chunks"])
