"""Write the options page from the commands themselves: `python docs/options_page.py` prints it.

The page is made when the site is built and is not committed. So it cannot be older than the code, and a changed help
text is one change and not two. Nothing of it depends on the width of a terminal.
"""

from typing import Any

import typer

from dpd_cli.main import add_command, app, offered_commands

TABLE = "| name | value | meaning |\n|---|---|---|"
HEAD = """# Options

Written from the commands themselves. `dpd COMMAND --help` prints the same, but for the meaning of the names for
`--set`. Every command also takes `--config FILE`: a TOML file with its options as keys, or a record that dpd wrote;
the command line wins.
"""


def options_page() -> str:
    """Return the whole page as Markdown, one heading for each command in the order of `dpd --help`, ours last that come
    in through the door.
    """
    for name in offered_commands():
        add_command(name)
    group = typer.main.get_group(app)
    return "\n".join([HEAD, *(command_section(name, command) for name, command in group.commands.items())])


def command_section(name: str, command: Any) -> str:
    """Return a command's first paragraph and tables of its arguments and options, one table for each help panel."""
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            title = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or title, []).append(row(parameter))
    said = " ".join((command.help or "").split("\n\n")[0].split())
    settable = getattr(command.callback, "settable", {})
    if settable:
        panels["Names for --set"] = [f"| `{name}` | value | {escaped(help)} |" for name, help in settable.items()]
    tables = ["\n".join([f"**{title}**\n", TABLE, *rows, ""]) for title, rows in panels.items()]
    return "\n".join([f"## dpd {name}\n", escaped(said) + "\n", *tables])


def row(parameter: Any) -> str:
    """Return a table row: names, type and default, help."""
    facts = [kind(parameter)]
    if parameter.required:
        facts.append("required")
    elif parameter.default is not None and not isinstance(parameter.default, bool) and str(parameter.default):
        facts.append(f"default: {parameter.default}")
    spellings = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        spellings = [parameter.metavar or parameter.name.upper()]
    names = ", ".join(f"`{name}`" for name in spellings)
    return f"| {names} | {escaped(', '.join(facts))} | {escaped(parameter.help or '')} |"


def kind(parameter: Any) -> str:
    """Return the type of a value in one word, by typer's own parameters and by click's."""
    if getattr(parameter, "is_flag", False):
        return "flag"
    described = getattr(parameter, "type_descriptor", None)
    annotation = getattr(described, "annotation", None) or getattr(parameter, "type", "value")
    text = getattr(annotation, "__name__" if isinstance(annotation, type) else "name", str(annotation)).lower()
    text = text.replace("pathlib.", "")
    return f"{text[5:-1]}, may be repeated" if text.startswith("list[") else text


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line of a table."""
    line = " ".join(str(text).replace("\\[", "[").split())  # rich wants the backslash, the page does not
    for character in "\\|<>*_[]":
        line = line.replace(character, "\\" + character)
    return line


if __name__ == "__main__":
    print(options_page())
