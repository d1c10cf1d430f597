import json
from pathlib import Path

from avion_core.settings_page import settings_schema, settings_table

ROOT = Path(__file__).parents[2]


def test_generated_settings_page_and_schema_are_current() -> None:
    way_out = "run: python -m avion_core.settings_page"
    assert (ROOT / "docs/settings.md").read_text() == settings_table(), way_out
    schema = json.loads((ROOT / "config.schema.json").read_text())
    assert schema == json.loads(json.dumps(settings_schema())), way_out
