"""Weights of open_clip's become a file of ours: from its cache, from a server, or one clear error."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from avion_core.models.checkpoint_file import read_checkpoint
from avion_core.models.open_clip_weights import check_name, fetch
from avion_core.models.weights import ModelError

NAME = "open_clip:ViT-B-16/openai"
WEIGHTS = {"visual.proj": torch.ones(3, 2)}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served on loopback as the place where open_clip finds everything."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        published = {"url": f"http://127.0.0.1:{running.server_port}/w.pt"}
        monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: published)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        yield folder
        running.shutdown()


def test_weights_are_fetched_from_where_open_clip_finds_them(tmp_path, server):
    save_file(WEIGHTS, server / "w.pt")
    out = tmp_path / "data" / "weights" / "open_clip" / "ViT-B-16" / "openai"
    fetch(NAME, out)
    assert torch.equal(read_checkpoint(out)["visual.proj"], WEIGHTS["visual.proj"])


def test_what_lies_in_open_clips_cache_is_not_fetched_again(tmp_path, server):
    cache = tmp_path / "home" / ".cache" / "clip"
    cache.mkdir(parents=True)
    save_file(WEIGHTS, cache / "w.pt")  # which the server does not have
    fetch(NAME, tmp_path / "out")
    assert torch.equal(read_checkpoint(tmp_path / "out")["visual.proj"], WEIGHTS["visual.proj"])


def test_a_failed_download_says_what_to_do_and_leaves_nothing(tmp_path, server):
    with pytest.raises(ModelError, match=r"openai: cannot be downloaded; run 'snakemake weights'.*404") as e:
        fetch(NAME, tmp_path / "new" / "out")
    assert str(tmp_path / "new" / "out") in str(e.value)
    (server / "w.pt").write_text("<html>Sign in to this network</html>")
    with pytest.raises(ModelError, match="a web page"):
        fetch(NAME, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B16/openai", "model: unknown name 'ViT-B16'; did you mean 'ViT-B-16'"),
        ("ViT-B-16/opanai", "tag: unknown name 'opanai'; did you mean 'openai'"),
        ("ViT-B-16", "tag: unknown name ''; known: .*openai"),
    ],
)
def test_a_name_that_open_clip_does_not_know_is_one_clear_error(name, message):
    with pytest.raises(ModelError, match=message):
        check_name(f"open_clip:{name}")
