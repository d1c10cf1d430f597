"""Snakemake accepts every command that the documentation and the heads of configuration files show."""

import re
import shlex
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

ROOT = Path(__file__).parents[2]
FILES = ("README.md", "Snakefile", "config.yaml", "docs/*.md", "configs/*.yaml", "rules/*.smk")
PAGES = [page for pattern in FILES for page in sorted(ROOT.glob(pattern))]

# In quotation marks up to the closing one; elsewhere to the end of the line, or two spaces before a remark.
COMMAND = re.compile(r"([`\"])(?P<quoted>snakemake [^`\"]*)\1|\b(?P<bare>snakemake (?:\w+ )?-[^`\n]*)")


def commands(page: str) -> list[str]:
    """The commands in a page's text, each on one line, without remarks."""
    joined = re.sub(r"\\\n[# ]*", "", page)
    found = ((match["quoted"] or match["bare"]).replace("\n", " ") for match in COMMAND.finditer(joined))
    return [re.split(r"  +|\)$", command)[0] for command in found]


DOCUMENTED = [
    (str(page.relative_to(ROOT)), command) for page in PAGES for command in commands(page.read_text())
]


@pytest.mark.parametrize(("page", "command"), DOCUMENTED)
def test_snakemake_accepts_a_documented_command(page: str, command: str) -> None:
    assert get_argument_parser().parse_args(shlex.split(command)[1:]), page


def test_commands_are_found_wherever_they_stand() -> None:
    page = "```\nsnakemake -n      # jobs\n```\n`snakemake --cores 8\nplan` (or: snakemake --cores all)\n"
    head = "#   command    snakemake --cores 2 \\\n#       --configfile a.yaml     (all)\n"
    assert commands(page) == ["snakemake -n", "snakemake --cores 8 plan", "snakemake --cores all"]
    assert commands(head) == ["snakemake --cores 2 --configfile a.yaml"]
    assert len(DOCUMENTED) >= 20
