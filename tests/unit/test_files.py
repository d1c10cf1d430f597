"""Publication: whole or not at all, also after a kill."""

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avion_core.files import (
    PARTIAL,
    checksums,
    claim,
    code_fingerprint,
    code_revision,
    fingerprint,
    publish,
    read_json,
    remove_partials,
    sha256,
    write_json,
    write_manifest,
)


def test_file_appears_after_the_body_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "table.txt"
    with publish(target) as draft:
        draft.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [entry.name for entry in target.parent.iterdir()] == ["table.txt"]


def test_failed_body_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "table.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), publish(target) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.txt"]


def test_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for word in ("first", "second"):
        with publish(target) as draft:
            draft.mkdir()
            (draft / word).write_text(word)
    assert [entry.name for entry in target.iterdir()] == ["second"]


def test_a_draft_with_a_key_is_found_again_by_that_key_alone(tmp_path: Path) -> None:
    target = tmp_path / "chunks"
    with pytest.raises(RuntimeError), publish(target, key="a") as draft:
        (draft / ".partial-half").mkdir(parents=True)
        (draft / "first").write_text("first")
        (draft.with_name("chunks.old") / "half_deleted").mkdir(parents=True)
        raise RuntimeError
    with publish(target, key="b") as draft:
        assert not draft.exists()
        draft.mkdir()
    with publish(target, key="a") as draft:
        assert [entry.name for entry in draft.iterdir()] == ["first"]
    assert [entry.name for entry in tmp_path.rglob("*")] == ["chunks", "first"]


def test_killed_writer_leaves_only_a_partial_that_is_swept(tmp_path: Path) -> None:
    target = tmp_path / "table.txt"
    program = (
        "import os, signal, sys; from avion_core.files import publish\n"
        "with publish(sys.argv[1]) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", program, str(target)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [entry.name.startswith(PARTIAL) for entry in tmp_path.iterdir()] == [True]
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=[0o077, 0o027, 0o022, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask that holds for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_published_files_and_folders_follow_the_umask(tmp_path: Path, umask: int) -> None:
    """Whatever the writer made of them: safetensors makes private files, copies keep their source's mode."""
    with publish(tmp_path / "weights") as draft:
        draft.touch(mode=0o600)
    with publish(tmp_path / "model") as draft:
        (draft / "inner").mkdir(parents=True)
        draft.chmod(0o700)
        (draft / "inner/open").touch()
        (draft / "inner/open").chmod(0o666)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    files = dict.fromkeys(("weights", "open"), 0o666 & ~umask)
    assert modes == files | dict.fromkeys(("model", "inner"), 0o777 & ~umask)


def test_a_published_link_leaves_what_it_points_to_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "inner").mkdir(parents=True)
    (theirs / "inner").chmod(0o700)
    theirs.chmod(0o700)
    with publish(tmp_path / "ours") as draft:
        draft.symlink_to(theirs)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (theirs, theirs / "inner")] == [0o700, 0o700]


def test_folders_keep_the_bit_that_hands_their_group_on(tmp_path: Path) -> None:
    tmp_path.chmod(0o2755)
    with publish(tmp_path / "model") as draft:
        draft.mkdir()
    assert (tmp_path / "model").stat().st_mode & stat.S_ISGID


def test_fingerprint_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_json_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"list\.json: not valid JSON"):
        read_json(path)


def of(source: Path) -> dict[str, Any]:
    """Input and identity of a manifest."""
    inputs = {"source": source}
    return {"inputs": inputs, "identity": {"inputs": checksums(inputs)}}


def test_manifest_holds_the_inputs_checksums(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes(b"abc")
    write_manifest(tmp_path / "manifest.json", settings={"a": 1}, **of(source))
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["settings"] == {"a": 1}
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["inputs"]["source"]["sha256"] == sha256(source) == known


def test_the_revision_is_this_code_s_in_a_hook_of_another_repository_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git tells its hooks by variables which repository is committed to."""
    revision = code_revision()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert code_revision() == revision


def test_written_json_reads_back(tmp_path: Path) -> None:
    value = {"text": "größer", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_code_fingerprint_sees_code_and_no_comments(tmp_path: Path) -> None:
    def digest(source: str) -> str:
        path = tmp_path / "module.py"
        path.write_text(source)
        return code_fingerprint([path])

    plain = digest('"""Words."""\ndef f(x):\n    return x + 1\n')
    assert plain == digest('"""Others."""\n# a comment\ndef f( x ):\n    """New."""\n    return x+1\n')
    assert plain != digest("def f(x):\n    return x + 2\n")


def test_writers_of_one_folder_do_not_touch_each_other(tmp_path: Path) -> None:
    """A neighbour's unfinished files may vanish at any moment, so publishing must not look at them."""
    with publish(tmp_path / "first"):
        neighbour = next(tmp_path.iterdir())
        neighbour.joinpath("dangling").symlink_to("nothing")
        with publish(tmp_path / "second") as draft:
            draft.write_text("whole")
        neighbour.joinpath("first").write_text("whole too")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["first", "second"]


def test_a_claim_is_of_one_process_until_it_ends(tmp_path: Path) -> None:
    target = tmp_path / "chunks"
    program = (
        "import sys, time; from avion_core.files import claim\n"
        "with claim(sys.argv[1]):\n"
        "    print('claimed', flush=True); time.sleep(10)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, str(target)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"claimed\n"
        with pytest.raises(BlockingIOError, match="chunks: another process is at work on it"), claim(target):
            pass
        other.kill()
        other.wait()
    with claim(target), claim(tmp_path / "others"):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_is_named_with_the_file(tmp_path: Path) -> None:
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*list\.json'"):
            write_json(tmp_path / "list.json", ["x" * 10_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
