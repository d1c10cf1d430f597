"""The section `local_server`: what it refuses and fills in, and the commands of its programs."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avion_core.config import LocalServerSettings, NarrateSettings, Settings, SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.narrate.local_programs import free_port, server_command, server_problems
from avion_core.narrate.vision_probe import _asked
from avion_core.precheck import check_local_server, check_narrations, missing_here
from avion_core.workflow import Workflow

DEMO = read_config(Path(__file__).parents[3] / "config.yaml")
FREE = {
    "usd_per_million_input_tokens": 0.0,
    "usd_per_million_output_tokens": 0.0,
    "parallel_requests": 3,
    "timeout_seconds": 600.0,
}


def loaded(model: dict[str, Any] | None = None, **server: Any) -> Settings:
    """The demo with a local server for rephrasing."""
    own = {"model": "m"} if model is None else model
    narrate = {"provider": "language_model", "language_model": own}
    return load_settings(
        lay_over(DEMO, {"narrate": narrate, "local_server": {"model": "m.gguf", "slots": 3, **server}})
    )


def commanded(images: int = 0, **settings: Any) -> list[str]:
    server = LocalServerSettings.model_validate({"model": "m.gguf", "slots": 3, **settings})
    return server_command(server, names=["a", "b"], port=8080, threads=2, images=images)


def test_the_command_of_llama_cpp() -> None:
    python, program, *words = commanded(python="/env/bin/python", projector="p.gguf", chat_template="t.jinja")
    assert python == "/env/bin/python" and Path(program).is_file()
    expected = "--model m.gguf --alias a b --port 8080 --threads 2 --slots 3 --context 3072"
    assert " ".join(words) == f"{expected} --projector p.gguf --chat-template t.jinja"
    assert commanded()[0] == sys.executable and commanded()[-1] == "3072"


def test_the_command_of_vllm() -> None:
    words = commanded(images=4, program="vllm", model="Qwen/Qwen3", python="/env/bin/python")
    expected = "/env/bin/vllm serve Qwen/Qwen3 --served-model-name a b --host 127.0.0.1 --port 8080"
    expected += " --max-num-seqs 3 --max-model-len 1024 --limit-mm-per-prompt"
    assert words == [*expected.split(), '{"image": 4}']
    assert "--limit-mm-per-prompt" not in commanded(program="vllm")


def test_models_of_the_local_server_are_free_and_use_its_slots() -> None:
    own = loaded().narrate.own.model_dump()
    assert FREE.items() <= own.items()
    assert loaded({"model": "m", "parallel_requests": 9}).narrate.own.model_dump()["parallel_requests"] == 9


def test_one_job_asks_the_local_server_and_needs_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    workflow = Workflow(loaded())
    assert workflow.narration_shards(looks=False) == 1 and workflow.narration_shards(looks=True) == 2
    assert workflow.local_server(looks=False) and workflow.local_server(looks=True) is None
    assert list(check_narrations(workflow)) == []


def test_the_address_and_the_section_are_no_recipe() -> None:
    with_server = loaded().narrate
    narrate = {"provider": "language_model", "language_model": {"model": "m", "base_url": "http://x/v1"}}
    without = load_settings(lay_over(DEMO, {"narrate": narrate})).narrate
    moved = with_server.at("http://127.0.0.1:1234/v1")
    assert moved.own.model_dump()["base_url"] == "http://127.0.0.1:1234/v1"
    assert moved.recipe() == with_server.recipe() == without.recipe()
    assert with_server.at(None) is with_server
    assert NarrateSettings.join(moved.recipe(), moved.job_settings()) == moved


def test_the_port_of_the_local_server_probes_no_vision_server_again() -> None:
    vision = {"narrator": {"provider": "vision", "vision": {"model": "m"}}}
    narrator = load_settings(lay_over(DEMO, vision)).narrator
    first, second, other = (
        narrator.at(f"http://{host}/v1") for host in ("127.0.0.1:1", "127.0.0.1:2", "10.0.0.1:2")
    )
    assert _asked(first) == _asked(second) != _asked(other)


@pytest.mark.parametrize(
    ("model", "server", "words"),
    [
        (
            {"model": "m", "base_url": "http://x/v1"},
            {},
            "local_server and narrate.language_model.base_url are set; leave one out",
        ),
        ({}, {}, "narrate.language_model.model: name the model of local_server"),
        ({"model": "m"}, {"program": "vllm", "projector": "p"}, "local_server: projector: vllm reads it"),
        ({"model": "m"}, {"port": 0}, "local_server.port"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    model: dict[str, Any], server: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        loaded(model, **server)


def test_what_would_keep_the_server_from_starting_is_one_list(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = LocalServerSettings(
            model="nowhere.gguf", python=str(tmp_path / "python"), chat_template="gone.jinja", port=port
        )
        model, template, projector, package, ports = tuple(server_problems(server, looks=True))
    assert "local_server.chat_template: gone.jinja: no such file" in template
    assert "local_server.model: nowhere.gguf: no such file" in model
    assert "needs the model's projector" in projector
    assert "pip install xllamacpp" in package and "local_server.python" in package
    assert f"another program listens on port {port}" in ports


def test_a_server_that_can_start_has_no_problem(tmp_path: Path) -> None:
    python, model = tmp_path / "python", tmp_path / "m.gguf"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    model.touch()
    server = LocalServerSettings(model=str(model), python=str(python), port=free_port())
    assert list(server_problems(server, looks=False)) == []
    hub = LocalServerSettings(program="vllm", model="Qwen/Qwen3", python=str(python))
    assert list(server_problems(hub, looks=True)) == []


def test_finished_narrations_need_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workflow = Workflow(loaded())
    assert any("m.gguf" in problem for problem in check_local_server(workflow))
    for dataset in workflow.rephrased_datasets():
        table = Path(workflow.narration_table(dataset))
        table.parent.mkdir(parents=True)
        table.touch()
    assert list(check_local_server(workflow)) == []


def test_a_cluster_is_refused() -> None:
    job = SimpleNamespace(is_service=True, resources={})
    assert "base_url (docs/local_llm.md)" in (missing_here("cluster-generic", iter([job])) or "")
    assert missing_here("local", iter([job])) is None
