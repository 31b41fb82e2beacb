"""The `recollect` command.

Exit codes: 0 it worked, 1 it failed while running, 2 the command line or the settings are wrong.

What only one command needs is imported by it alone: `recollect config` loads no server.
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn, TypedDict

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.load import Loaded, SettingsError, data_folder, find_config_file, load
from config.masking import mask
from config.settings import Settings

_USAGE_ERROR = 2
_PIPE_WIDTH = 400
"""Columns where there is no terminal: a line that is searched by a program must not be folded."""

app = typer.Typer(
    name="recollect",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, secrets among them
)
config_app = typer.Typer(help="Look at the settings in effect.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings file (TOML). Else $RECOLLECT_CONFIG, else ./recollect.toml if it exists.",
    ),
]


def main() -> None:
    """Run the command line and exit."""
    app()


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"recollect {version('recollect')}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """A response cache for LLM servers."""


@app.command()
def serve(
    *,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="Base URL of the LLM server.")
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Redis to store in. Without it, one of our own is started."
        ),
    ] = None,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of worker processes.")] = None,
) -> None:
    """Serve: answer from the cache, ask the upstream otherwise."""
    flags = {
        "upstream.base_url": upstream,
        "redis.url": redis,
        "server.host": host,
        "server.port": port,
        "server.workers": workers,
    }
    file = find_config_file(config, os.environ)
    from proxy.embedding.start import is_installed

    def read() -> Settings:
        return load(
            file, flags, os.environ, is_upstream_needed=True, can_embed=is_installed()
        ).settings

    try:
        settings = read()
    except SettingsError as error:
        _refuse(error)
    from proxy.supervisor import serve as supervise

    raise typer.Exit(supervise(settings, read))


@app.command()
def embed_server(
    *,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="http://host:port or unix:///path; else semantic.address."
        ),
    ] = None,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="Redis that the workers store in.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the embedding process alone, on a GPU host, say."""
    flags = {"semantic.address": listen, "redis.url": redis}
    try:
        settings = load(find_config_file(config, os.environ), flags, os.environ).settings
        from proxy.data_folder import DataFolderError
        from proxy.embedding.alone import serve_alone

        try:
            code = serve_alone(settings)
        except DataFolderError as error:
            typer.echo(f"recollect: {error}", err=True)
            code = 1
    except SettingsError as error:
        _refuse(error)
    raise typer.Exit(code)


@app.command()
def tune(
    *,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Labelled pairs: a line {"a": …, "b": …, "same": true} each, or CSV (a,b,same).'
            " Each a is stored, then each b is asked.",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Questions in the order they came: a line {"question": …, "answer": …} or'
            ' {"request": {…}, "response": {…}} each, or CSV (question,answer). All are one'
            " tenant's; earlier turns count to the letter.",
        ),
    ] = None,
    max_error: Annotated[
        float, typer.Option(help="Largest share of hits that may be wrong, above 0 and below 1.")
    ] = 0.01,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curve into this PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON document.")] = False,
    seed: Annotated[int, typer.Option(help="Which hits are checked.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Replay questions: how many hits by meaning, how many of them wrong, which settings then."""
    file = pairs if log is None else log
    if file is None or (pairs is not None and log is not None):
        _fail("one of --pairs and --log is needed", _USAGE_ERROR)
    if not 0 < max_error < 1:
        _fail(f"--max-error {max_error:g} should be above 0 and below 1", _USAGE_ERROR)
    settings = _load(find_config_file(config, os.environ)).settings
    from proxy.embedding.start import ONE_BLAS_THREAD, is_installed

    if not is_installed():
        _fail("this needs the extra `semantic`: pip install 'recollect[semantic]'", 1)
    # Before numpy is loaded.
    for name, value in ONE_BLAS_THREAD.items():
        os.environ.setdefault(name, value)
    from admin.tune import tuned
    from admin.tune_files import BadFile, read_log, read_pairs
    from admin.tune_report import as_json as report_as_json
    from admin.tune_report import draw, print_report
    from embeddings.encoding.models import EncoderError

    # Beside what is piped, and seen on a terminal only.
    progress = Console(stderr=True).status("reading")
    try:
        with progress:
            exchanges = read_pairs(file) if log is None else read_log(file)
            report = tuned(exchanges, settings, max_error, seed=seed, tell=progress.update)
    except BadFile as error:
        _fail(str(error), _USAGE_ERROR)
    except EncoderError as error:
        _fail(str(error), 1)
    if as_json:
        typer.echo(json.dumps(report_as_json(report), indent=2, ensure_ascii=False))
    else:
        print_report(report, Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH))
    if picture is not None:
        try:
            draw(report, picture)
        except ImportError:
            _fail("--picture needs matplotlib: pip install 'recollect[semantic]'", 1)
        except OSError as error:
            _fail(f"{picture} cannot be written: {error.strerror}", 1)


@config_app.command()
def check(config: ConfigOption = None) -> None:
    """Check the settings; name every mistake."""
    file = find_config_file(config, os.environ)
    loaded = _load(file)
    typer.echo(f"The settings are valid ({file or 'no settings file'}).")
    if not loaded.settings.upstream.base_url:
        typer.echo("upstream.base_url is not set: `recollect serve` will need --upstream.")


@config_app.command()
def show(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show the settings in effect, each with where it came from. Secrets are masked."""
    loaded = _load(find_config_file(config, os.environ))
    shown = _shown(loaded)
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    table = Table("Setting", "Value", "Source", box=None)
    for key, row in shown.items():
        # Text, not str: square brackets are part of a value, not rich's markup.
        table.add_row(key, Text(json.dumps(row["value"], ensure_ascii=False)), Text(row["source"]))
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


class _Row(TypedDict):
    value: object
    source: str


def _shown(loaded: Loaded) -> dict[str, _Row]:
    values = loaded.settings.model_dump(mode="json")
    # What it comes to, rather than that it was not set.
    values["server"]["data_dir"] = str(data_folder(loaded.settings, os.environ))
    rows = {}
    for key, source in loaded.sources.items():
        section, _, name = key.partition(".")
        value = values[section][name] if name else values[section]
        rows[key] = _Row(value=mask(key, value), source=source)
    return rows


def _load(file: Path | None) -> Loaded:
    try:
        return load(file, {}, os.environ)
    except SettingsError as error:
        _refuse(error)


def _refuse(error: SettingsError) -> NoReturn:
    _fail(str(error), _USAGE_ERROR)


def _fail(why: str, code: int) -> NoReturn:
    typer.echo(f"recollect: {why}", err=True)
    raise typer.Exit(code)
