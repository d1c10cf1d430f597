"""A narration provider from outside the package: its settings and its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULE = '''
from typing import ClassVar

from avion_core.config import PROVIDERS, ProviderSettings
from avion_core.narrate.provider import NarrateError, Provider, Rephrasing


class EchoSettings(ProviderSettings):
    """Says everything again."""

    work: ClassVar[str] = "echo:Echo"
    code: ClassVar[tuple[str, ...]] = (__file__,)
    word: str = "again"
    """What follows each narration."""


class Echo(Provider):
    def check(self):
        if not self.settings.of(EchoSettings).word:
            raise NarrateError("narrate.echo.word is empty; set a word")

    def rephrase(self, work):
        for text in work.texts.to_pylist():
            yield Rephrasing(text, [f"{text} {self.settings.of(EchoSettings).word}"])


PROVIDERS.register("echo", EchoSettings)
'''
PROGRAM = """
import json, sys
from pathlib import Path
from avion_core.config import NarrateSettings, SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.workflow.code import provider_code

def load(**echo):
    overlay = {"plugins": ["echo"], "narrate": {"provider": "echo", "echo": echo}}
    return load_settings(lay_over(read_config(Path(sys.argv[1])), overlay)).narrate

settings = load(word="twice")
assert NarrateSettings.join(settings.recipe(), settings.job_settings()) == settings
try:
    load(wrod="twice")
except SettingsError as error:
    print(json.dumps([settings.recipe(), len(provider_code("echo")), str(error)]))
"""


def test_a_plug_in_brings_a_provider_with_settings_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(MODULE)
    command = [sys.executable, "-c", PROGRAM, str(ROOT / "config.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    recipe, digits, error = json.loads(said)
    assert recipe == {
        "provider": "echo",
        "rephrase": {"texts_per_narration": 4},
        "echo": {"word": "twice"},
    }
    assert digits == 16
    assert error == "config: unknown setting 'narrate.echo.wrod'; did you mean 'word'?"
