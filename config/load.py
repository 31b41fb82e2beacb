"""Reads the settings: defaults < file < environment < command line.

The sources are read one by one, so that each effective value can name where it came from, and so
that one look shows every mistake and not only the first. Secrets named by a `*_file` setting are
read here too. What the values mean, and their ranges, is in `config.settings`.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from config.masking import mask
from config.settings import RouteSettings, Settings

CONFIG_VARIABLE = "RECOLLECT_CONFIG"
DEFAULT_FILE = Path("recollect.toml")
FLAGS = {
    "upstream.base_url": "--upstream",
    "redis.url": "--redis",
    "semantic.address": "--listen",
    "server.host": "--host",
    "server.port": "--port",
    "server.workers": "--workers",
}
"""The command-line flags that set a setting, by the setting's key."""

_PREFIX = "RECOLLECT_"
_SECRET_FILES = ("upstream.api_key", "tenancy.secret", "semantic.token")
_SHOWN_CHARACTERS = 80


class SettingsError(Exception):
    """The settings cannot be used.

    The text names each mistake: the setting, where it was made, what was given, what is right.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        heading = (
            "a setting is wrong" if len(mistakes) == 1 else f"{len(mistakes)} settings are wrong"
        )
        super().__init__("\n  ".join([f"{heading}:", *mistakes]))


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and for each dotted key where its value came from."""

    settings: Settings
    sources: dict[str, str]


class _Reader(Settings, BaseSettings):
    """The same fields for pydantic-settings, whose sources want a model of its own kind."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", env_nested_max_split=1
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    source: str
    values: Mapping[str, Any]


def find_config_file(flag: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the settings file: the flag's, else $RECOLLECT_CONFIG, else ./recollect.toml if any.

    The path is absolute, so that a later reload reads the same file.
    """
    named = flag or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if named is None and DEFAULT_FILE.exists():
        named = DEFAULT_FILE
    return named.absolute() if named else None


def data_folder(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return `server.data_dir`, or the XDG base directory's default for it.

    A relative $XDG_DATA_HOME is ignored, as the XDG Base Directory Specification demands.
    """
    if settings.server.data_dir is not None:
        return settings.server.data_dir.absolute()
    base = Path(environ.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():
        base = Path.home() / ".local" / "share"
    return base / "recollect"


def load(
    config_file: Path | None,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    is_upstream_needed: bool = False,
    can_embed: bool = True,
) -> Loaded:
    """Read and check the settings.

    Args:
        config_file: TOML file, which must exist; None: no file.
        flags: Values of the command line by dotted key; those that are None were not given.
        environ: Environment; `RECOLLECT_SECTION__KEY` sets `section.key`.
        is_upstream_needed: Whether `upstream.base_url` has to be set, as it has for serving.
        can_embed: Whether an embedding process can run here: the extra `semantic` is installed.

    Raises:
        SettingsError: Something is wrong; its text names everything that is.
    """
    mistakes: list[str] = []
    layers = [
        *_read_file(config_file, mistakes),
        *_read_environment(environ, mistakes),
        *_read_flags(flags),
    ]
    values: dict[str, Any] = {}
    sources = dict.fromkeys(_keys(Settings), "default")
    for layer in layers:
        _merge(values, sources, layer)
    _read_secrets(values, sources, mistakes)
    if is_upstream_needed and not _section(values, "upstream").get("base_url"):
        mistakes.append(
            "upstream.base_url: not set; should be the URL of the LLM server, "
            "given by --upstream, RECOLLECT_UPSTREAM__BASE_URL or the settings file"
        )
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError([*mistakes, *_explain(error, sources)]) from None
    semantic = settings.semantic
    if semantic.mode in {"on", "shadow"} and not (can_embed or semantic.address):
        mistakes.append(
            f"semantic.mode = {semantic.mode!r} ({sources['semantic.mode']}): needs the extra "
            '"semantic", which is not installed; should be "off" or not set, or come with the '
            "extra (make install EXTRAS=semantic) or with the semantic.address of an embedding "
            "process elsewhere"
        )
    if mistakes:
        raise SettingsError(mistakes)
    return Loaded(settings, {key: sources[key] for key in _keys(Settings)})


def _read_file(path: Path | None, mistakes: list[str]) -> Iterator[_Layer]:
    if path is None:
        return
    try:
        # The source passes over a file that is not there; one that was named should be.
        path.stat()
        source = TomlConfigSettingsSource(_Reader, path)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"is not TOML: {error}"
        mistakes.append(f"{path}: {reason}")
    else:
        yield _Layer(str(path), source.toml_data)


def _read_environment(environ: Mapping[str, str], mistakes: list[str]) -> Iterator[_Layer]:
    source = EnvSettingsSource(_Reader)
    for variable, value in sorted(environ.items()):
        if not variable.startswith(_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if not _is_meant_for_us(variable, value):
            continue
        # One at a time: of several together, one could not tell whose value was taken, and the
        # source stops at the first that is no JSON.
        source.env_vars = {variable.lower(): value}
        label = f"variable {variable}"
        try:
            values = source()
        except ValueError:
            mistakes.append(f'{_dotted(variable)} ({label}): should be JSON such as ["a", "b"]')
            continue
        if not values:
            mistakes.append(f"{label}: {_unknown(_dotted(variable), _keys(Settings), _variable)}")
            continue
        yield _Layer(label, values)


def _is_meant_for_us(variable: str, value: str) -> bool:
    """Say whether a variable with our prefix is a setting, or a setting misspelt.

    Others may share the prefix: a deployment's own, and those that Kubernetes gives every pod for
    a service named "recollect" (RECOLLECT_PORT=tcp://…). But a RECOLLECT_CACHE_TTL_S without effect
    would be noticed late.
    """
    name = variable.removeprefix(_PREFIX).lower()
    if "__" in name or name in Settings.model_fields:
        return True
    known = {key.replace(".", "_") for key in _keys(Settings)}
    known |= {key.rpartition(".")[2] for key in _keys(Settings)}
    return name in known and "://" not in value


def _read_flags(flags: Mapping[str, object]) -> Iterator[_Layer]:
    for key, value in flags.items():
        if value is not None:
            section, _, name = key.partition(".")
            yield _Layer(f"flag {FLAGS[key]}", {section: {name: value}})


def _merge(values: dict[str, Any], sources: dict[str, str], layer: _Layer) -> None:
    for section, given in layer.values.items():
        if isinstance(given, Mapping) and isinstance(values.get(section, {}), Mapping):
            values[section] = {**values.get(section, {}), **given}
            sources.update({f"{section}.{name}": layer.source for name in given})
        else:
            values[section] = given
        sources[section] = layer.source


def _read_secrets(values: dict[str, Any], sources: dict[str, str], mistakes: list[str]) -> None:
    for key in _SECRET_FILES:
        section, _, name = key.partition(".")
        given = _section(values, section)
        path = given.get(f"{name}_file")
        if path is None:
            continue
        where = f"{key}_file ({sources[f'{key}_file']})"
        if given.get(name) is not None:
            mistakes.append(f"{where}: {key} ({sources[key]}) is set too; should be one of the two")
            continue
        try:
            secret = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no text file"
            mistakes.append(f"{where}: {path}: {reason}")
            continue
        values[section] = {**given, name: secret.rstrip("\r\n")}
        sources[key] = f"file {path}"


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _explain(error: ValidationError, sources: Mapping[str, str]) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        location = mistake["loc"]
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
        key = "".join(parts).removeprefix(".")
        setting = ".".join(str(part) for part in location[:2])
        source = sources.get(setting) or sources[str(location[0])] if location else ""
        message = mistake["msg"].removeprefix("Value error, ").replace("Input should", "should")
        if mistake["type"] == "extra_forbidden" and location[0] == "routes":
            unknown = _unknown(str(location[-1]), list(RouteSettings.model_fields))
            yield f"{key} ({source}): {unknown}"
        elif mistake["type"] == "extra_forbidden":
            known = _keys(Settings) if "." in key else [*Settings.model_fields, *_keys(Settings)]
            yield f"{key} ({source}): {_unknown(key, known)}"
        elif mistake["type"] == "value_error" and "." not in setting:
            # About a section or all of them: settings that are right alone and wrong together.
            yield f"{message} ({_named(message, sources)})"
        else:
            yield f"{key}{_shown(setting, mistake['input'])} ({source}): {message}"


def _named(message: str, sources: Mapping[str, str]) -> str:
    """Return the settings a message speaks of, each with its source."""
    words = re.findall(r"[a-z_0-9]+\.[a-z_0-9]+", message)
    origins = {word: sources.get(word) or sources.get(word.partition(".")[0]) for word in words}
    return ", ".join(f"{word}: {origin}" for word, origin in origins.items() if origin)


def _shown(setting: str, value: object) -> str:
    """Return ` = value`, or nothing for a whole section or what is too long to be of help."""
    if "." not in setting:
        return ""
    text = repr(mask(setting, value))
    return f" = {text}" if len(text) <= _SHOWN_CHARACTERS else ""


def _unknown(name: str, known: Sequence[str], form: Callable[[str], str] = str) -> str:
    # "port" may be meant for any section that has one; "cache.tll_s" is a slip of the pen.
    last = name.rpartition(".")[2]
    nearest = [key for key in known if last in {key.rpartition(".")[2], key.replace(".", "_")}]
    nearest = nearest or difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {' or '.join(map(form, nearest))}?" if nearest else ""
    return f"there is no such setting{hint}"


def _keys(model: type[BaseModel]) -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += [f"{name}.{inner}" for inner in field.annotation.model_fields]
        else:
            keys.append(name)
    return keys


def _dotted(variable: str) -> str:
    return variable.removeprefix(_PREFIX).lower().replace("__", ".", 1)


def _variable(key: str) -> str:
    return _PREFIX + key.upper().replace(".", "__")
