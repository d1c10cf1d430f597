"""Write the report: one page, one table of figures."""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from avion_core.command import run
from avion_core.files import code_revision, write_json
from avion_core.report.dag import parse_rulegraph
from avion_core.report.page import build_report
from avion_core.report.plan import Dag, read_plan

SNAKEFILE = Path(__file__).parents[1] / "Snakefile"


def rule_graph(config: dict[str, Any]) -> Dag:
    """Rule graph that Snakemake plans for this configuration."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "config.json"
        settings.write_text(json.dumps(config))
        command = ["snakemake", "--snakefile", str(SNAKEFILE), "--configfile", str(settings)]
        command += ["--nolock", "--forceall", "--quiet", "--rulegraph"]
        reply = subprocess.run(command, capture_output=True, text=True, check=True)
    return parse_rulegraph(reply.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", required=True, help="what to show and where to find it, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    arguments = parser.parse_args()
    plan = read_plan(arguments.plan)
    plan = plan.model_copy(update={"revision": code_revision(), "dag": rule_graph(plan.config)})
    write_json(arguments.out / "plan.json", plan.model_dump(mode="json"))
    build_report(plan, out=arguments.out)


if __name__ == "__main__":
    run(main)
