"""What the READMEs tell a person to type is there: verbs, options, settings, targets of make, files."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from components.config import load_config
from flows.__main__ import VERBS, kinora

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "infra/README.md")


def typed(page: str) -> Iterator[list[str]]:
    """Yields the words of every `kinora ...` that stands in backticks or on a line of a block of commands."""
    text = (REPOSITORY / page).read_text()
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.S)
    lines = [line.split("   #")[0] for block in blocks for line in block.splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    for line in (*lines, *quoted):
        found = re.search(r"(?:^|exec kinora |inside |entrypoint.sh )(kinora .*)", line.strip().replace("\\|", "|"))
        if found:
            yield shlex.split(found[1])[1:]


def command(words: list[str]) -> click.Command:
    """Answers the command that the first words name, that of `show` below it."""
    context = click.Context(kinora)
    found = kinora.get_command(context, words[0])
    assert found is not None
    if isinstance(found, click.Group) and len(words) > 1:
        below = found.get_command(context, words[1].split("|")[0])
        assert below is not None, words
        return below
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one(page: str) -> None:
    seen = list(typed(page))
    assert len(seen) > 3
    for words in seen:
        assert words[0] in VERBS, words
        known = {option for parameter in command(words).params for option in parameter.opts}
        asked = {word.strip("[]").split("=")[0] for word in words if re.match(r"\[?--?[a-z]", word)}
        assert asked <= known, (words, asked - known)


def test_every_verb_is_in_the_readme() -> None:
    told = {words[0] for words in typed("README.md")}
    assert told >= set(VERBS)


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_of_a_page_is_one(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    settings = load_config().model_dump(mode="json")
    for section, name in re.findall(r"`(?:--set )?([a-z]+)\.([a-z_]+)(?:=[^`]*)?`", text):
        if section in settings and name not in ("py", "md", "yaml"):
            assert name in settings[section], f"{section}.{name}"


def test_every_target_and_file_of_the_readme_is_there() -> None:
    text = (REPOSITORY / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"`?make ([a-z-]+)[`\s]", text)) & targets >= {"demo", "test", "test-slow", "test-long", "check"}
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    assert linked
    assert [name for name in linked if not (REPOSITORY / name).exists()] == []
