"""The command line: each command is one function that calls the api; only here is anything printed or the process
ended.

Place in the flow: at the top. Invariant: stdout carries the product only; exit status 0 all done, 1 done but
something failed, 2 the call itself is wrong; no traceback reaches a user.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping

import click

from sigma2kql import __version__

# name -> (module, one line of help); a module is imported only when its command runs, so that --help stays fast
COMMANDS: Mapping[str, tuple[str, str]] = {
    "convert": ("convert", "Compile Sigma rules to KQL or to deployable artifacts."),
    "check": ("check", "Judge rules, and the KQL they give, without writing anything."),
    "test": ("test", "Run each rule's query on events and judge what it selects."),
    "hunt": ("hunt", "Run converted rules over data, here or where it lives."),
    "deploy": ("deploy", "Plan and apply rules to Microsoft Sentinel or Defender XDR."),
    "workspace": ("workspace", "Show what a workspace really holds, and which rules that leaves blind."),
    "coverage": ("coverage", "Count what rules cover; layers for the ATT&CK Navigator."),
    "site": ("site", "Make a static site of rules: pages, search, ATT&CK, tables, feeds."),
    "targets": ("targets", "Show targets, their tables, columns and Sigma fields."),
    "explain": ("explain", "Explain a rule's conversion, or a diagnostic code."),
}


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        command = import_module(f"sigma2kql.cli.{COMMANDS[cmd_name][0]}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from sigma2kql.diagnostics.diagnostic import did_you_mean

            hint = did_you_mean(args[0], COMMANDS) if args else ""
            raise click.UsageError(f"{error.message} {hint}".strip(), ctx) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def group() -> None:
    """Compile Sigma detection rules to exact KQL for Microsoft Sentinel and Defender XDR."""


def main() -> None:
    """The entry point: every expected failure ends in a message and a status, never in a traceback."""
    gc.set_threshold(200_000)  # a document leaves no cycles, and looking for them takes a tenth of the time
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    try:
        status = group.main(prog_name="sigma2kql", standalone_mode=False)
        sys.stdout.flush()
        if "sigma2kql.engines" not in sys.modules:  # DuckDB complains of what was not collected
            gc.freeze()  # the process ends: to look for cycles in all that is alive takes a twentieth of a run
    except click.exceptions.Abort:
        click.echo("aborted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        from sigma2kql.diagnostics.render import printable

        said = "\n".join(map(printable, error.format_message().split("\n")))
        usage = isinstance(error, click.UsageError)
        (click.UsageError(said, error.ctx) if usage else click.ClickException(said)).show()  # type: ignore[attr-defined]
        sys.exit(2)
    except BrokenPipeError:
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        sys.exit(_report(error))
    sys.exit(status if isinstance(status, int) else 0)


def _report(error: Exception) -> int:
    """A wrong call, or a fault of our own: said plainly either way."""
    from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
    from sigma2kql.diagnostics.render import as_text, printable

    if isinstance(error, Sigma2KqlError):
        for diagnostic in error.diagnostics:
            click.echo(as_text(diagnostic), err=True)
        return 2
    import os

    if os.environ.get("SIGMA2KQL_DEBUG"):
        raise error
    click.echo(
        f"internal error: {type(error).__name__}: {printable(str(error))}\n"
        "This is a fault of sigma2kql: please report it (SIGMA2KQL_DEBUG=1 shows where).",
        err=True,
    )
    return 2
