"""The conda environments and the lock name the same versions."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def pins(lines: list[str]) -> dict[str, str]:
    pairs = [line.split(" ")[0].split("==") for line in lines if "==" in line]
    return {name.lower().replace("_", "-"): version for name, version in pairs}


LOCK = pins((ROOT / "requirements.lock").read_text().splitlines())


def listed_pins(path: Path) -> dict[str, str]:
    environment = yaml.safe_load(path.read_text())
    return pins(next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)))


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_environment_has_the_lock_s_pins(path: Path) -> None:
    listed = listed_pins(path)
    assert listed, f"{path.name} pins nothing"
    assert {name: LOCK.get(name) for name in listed} == listed


def test_gpu_environment_is_the_cpu_one_with_flash_attn() -> None:
    assert listed_pins(ROOT / "envs/gpu.yaml") == listed_pins(ROOT / "envs/train.yaml")
    assert "flash-attn==" in (ROOT / "envs/gpu.post-deploy.sh").read_text()
