import os
import pty
import subprocess
import sys
from importlib.resources import files

from click.testing import CliRunner, Result

from aiocluster.ui.cli import main
from aiocluster.ui.manual import pages


def show(*topics: str) -> Result:
    return CliRunner().invoke(main, ["help", *topics])


def test_a_topic_shows_its_page() -> None:
    """The terminal shows what GitHub shows, without marks or escapes of its own."""
    for name in ("settings", "glossary"):
        result = show(name)
        page = (files("aiocluster") / "docs" / f"{name}.md").read_text("utf-8")
        assert (result.exit_code, result.output.rstrip()) == (0, page.rstrip())


def test_every_page_has_a_topic_and_a_line_in_the_list() -> None:
    """The list needs no more than one line a page: its title."""
    result = show()
    assert result.exit_code == 0
    lines = result.output.splitlines()[2:]
    assert [line.split(maxsplit=1)[0] for line in lines] == [*pages()]
    assert "  settings " in result.output
    assert max(map(len, lines)) <= 80
    for line, page in zip(lines, pages().values(), strict=True):
        assert page.startswith(f"# {line.split(maxsplit=1)[1]}\n"), line


def test_an_unknown_topic_is_a_usage_error_with_the_list() -> None:
    """The error names the nearest topic, if one is near."""
    result = show("setings")
    assert result.exit_code == 2
    assert result.output.startswith(
        "Error: No such topic 'setings': did you mean settings? Topics:"
    )
    assert show().output.partition("\n\n")[2] in result.output

    result = show("zzz")
    assert result.exit_code == 2
    assert result.output.startswith("Error: No such topic 'zzz'. Topics:")


def test_on_a_terminal_the_page_goes_through_the_pager() -> None:
    """A page is longer than a screen."""
    primary, terminal = pty.openpty()
    command = [sys.executable, "-m", "aiocluster", "help", "glossary"]
    env = {**os.environ, "PAGER": "sed -n 1s/^/PAGED:/p", "TERM": "xterm"}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, env=env) as process:
        os.close(terminal)
        shown = b""
        while b"\n" not in shown:
            shown += os.read(primary, 1024)
        assert process.wait() == 0
    os.close(primary)
    assert shown == b"PAGED:# Glossary\r\n"


def test_the_manual_needs_nothing_that_serves() -> None:
    """It answers at once, also where aiohttp and uvloop cannot be imported."""
    script = (
        "import sys\n"
        "sys.modules['aiohttp'] = sys.modules['uvloop'] = None\n"
        "from aiocluster.ui.cli import main\n"
        "main(['help', 'settings'], standalone_mode=False)\n"
        "sys.exit('asyncio' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
