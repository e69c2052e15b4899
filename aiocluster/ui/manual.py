"""The manual in the terminal: `aiocluster help TOPIC` shows a page of docs/ as it is written."""

from difflib import get_close_matches
from importlib.resources import files

import click


def pages() -> dict[str, str]:
    """Return the text of each page of the manual, by its topic."""
    folder = files("aiocluster") / "docs"
    found = {page.name: page for page in folder.iterdir() if page.name.endswith(".md")}
    return {name.removesuffix(".md"): found[name].read_text("utf-8") for name in sorted(found)}


@click.command("help")
@click.argument("topic", required=False)
def show_manual(topic: str | None) -> None:
    """Show the manual's page on TOPIC, or list all topics."""
    manual = pages()
    if topic is None:
        click.echo(f"Topics, for example: aiocluster help settings\n\n{_titles(manual)}")
    elif topic in manual:
        click.echo_via_pager(manual[topic])  # plain where the output is no terminal
    else:
        near = get_close_matches(topic.lower(), manual, n=1)
        hint = f": did you mean {near[0]}?" if near else "."
        raise click.UsageError(f"No such topic {topic!r}{hint} Topics:\n\n{_titles(manual)}")


def _titles(manual: dict[str, str]) -> str:
    width = max(map(len, manual))
    return "\n".join(
        f"  {topic:{width}}  {text.splitlines()[0].removeprefix('# ')}"
        for topic, text in manual.items()
    )
