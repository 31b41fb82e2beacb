"""Settings are read from several sources; every mistake is named with its place."""

import json
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from config.load import FLAGS, Loaded, SettingsError, data_folder, find_config_file, load
from config.masking import SECRET_KEYS, mask, mask_url
from config.section import REVEAL_SECRETS
from config.settings import Settings

WriteFile = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def write_file(text: str) -> Path:
        file = tmp_path / "settings.toml"
        file.write_text(text)
        return file

    return write_file


def from_environment(**variables: str) -> Loaded:
    return load(None, {}, {f"RECOLLECT_{name}": value for name, value in variables.items()})


def mistakes_of(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        from_environment(**variables)
    return str(caught.value)


def test_each_source_overrides_those_before_it(write: WriteFile) -> None:
    """Defaults < file < environment < command line, each value with its source."""
    file = write("[server]\nport = 1\nworkers = 1\ndrain_s = 1")
    environ = {"RECOLLECT_SERVER__PORT": "2", "RECOLLECT_SERVER__WORKERS": "2"}

    loaded = load(file, {"server.port": 3}, environ)

    server = loaded.settings.server
    assert (server.port, server.workers, server.drain_s, server.host) == (3, 2, 1, "127.0.0.1")
    assert loaded.sources["server.port"] == "flag --port"
    assert loaded.sources["server.workers"] == "variable RECOLLECT_SERVER__WORKERS"
    assert loaded.sources["server.drain_s"] == str(file)
    assert loaded.sources["server.host"] == "default"


def test_a_flag_not_given_overrides_nothing() -> None:
    """The command line hands over None for what was not typed."""
    loaded = load(None, {"server.port": None}, {"RECOLLECT_SERVER__PORT": "2"})

    assert loaded.settings.server.port == 2


def test_every_flag_sets_a_setting() -> None:
    """A flag whose setting was renamed would fail only when it is used."""
    sources = load(None, {}, {}).sources

    assert set(FLAGS) <= set(sources)


def test_lists_tables_and_sections_are_json_in_the_environment() -> None:
    """Names of tenants keep their case, which a variable's name could not."""
    digest = "AB" * 32
    loaded = from_environment(
        CACHE='{"ttl_s": 5, "jitter": 0.5}',
        CACHE__JITTER="0",
        CACHE__IGNORE_FIELDS='["seed"]',
        TENANCY__NAMES=json.dumps({"Acme": [digest]}),
        ROUTES='[{"models": ["gpt-*"]}]',
    )

    assert loaded.settings.cache.ttl_s == 5
    assert loaded.settings.cache.jitter == 0
    assert loaded.settings.cache.ignore_fields == ("seed",)
    assert loaded.settings.tenancy.names == {"Acme": (digest.lower(),)}
    assert loaded.settings.routes[0].models == ("gpt-*",)
    assert loaded.sources["cache.ttl_s"] == "variable RECOLLECT_CACHE"
    assert loaded.sources["routes"] == "variable RECOLLECT_ROUTES"


def test_all_mistakes_are_named_at_once_with_their_places(write: WriteFile) -> None:
    """Key, place, what was given, what would be right; from each source."""
    file = write(
        "[cache]\nttl_s = -1\ntll_s = 2\n[redis]\nnamespace = 'a b'\n[[routes]]\nmodels = 1"
    )
    environ = {"RECOLLECT_LOG__LEVEL": "loud", "RECOLLECT_CACHE__KEY_HEADERS": "x-a"}

    with pytest.raises(SettingsError) as caught:
        load(file, {"server.port": 70000}, environ)

    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == "7 settings are wrong:"
    assert f"cache.ttl_s = -1 ({file}): should be greater than 0" in lines
    assert f"cache.tll_s ({file}): there is no such setting; did you mean cache.ttl_s?" in lines
    assert "server.port = 70000 (flag --port): should be less than or equal to 65535" in lines
    assert any(line.startswith(f"redis.namespace = 'a b' ({file}): ") for line in lines)
    assert any(line.startswith(f"routes[0].models = 1 ({file}): ") for line in lines)
    assert (
        "log.level = 'loud' (variable RECOLLECT_LOG__LEVEL): "
        "should be 'debug', 'info', 'warning' or 'error'"
    ) in lines
    assert (
        "cache.key_headers (variable RECOLLECT_CACHE__KEY_HEADERS): "
        'should be JSON such as ["a", "b"]'
    ) in lines


@pytest.mark.parametrize(
    ("toml", "hint"),
    [
        ("[cashe]\nttl_s = 1", "cashe (FILE): there is no such setting; did you mean cache?"),
        ("port = 1", "port (FILE): there is no such setting; did you mean server.port or admin.p"),
        ("zzz = 1", "zzz (FILE): there is no such setting\n"),
        (
            "[[routes]]\nmodels = ['a']\ntll_s = 1",
            "routes[0].tll_s (FILE): there is no such setting; did you mean ttl_s?",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(
    write: WriteFile, toml: str, hint: str
) -> None:
    """Style: unknown keys are refused; a setting misspelt would silently not be set."""
    file = write(toml)
    with pytest.raises(SettingsError) as caught:
        load(file, {}, {})

    assert hint.replace("FILE", str(file)) in str(caught.value) + "\n"


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CASHE__TTL_S", "RECOLLECT_CACHE__TTL_S"),
        ("CACHE_TTL_S", "RECOLLECT_CACHE__TTL_S"),
        ("WORKERS", "RECOLLECT_SERVER__WORKERS"),
        ("CACHE__TLL_S", "cache.ttl_s"),
    ],
)
def test_a_misspelt_variable_is_refused(variable: str, meant: str) -> None:
    """Without effect, it would be noticed late."""
    message = mistakes_of(**{variable: "7"})

    assert f"variable RECOLLECT_{variable}" in message
    assert f"did you mean {meant}?" in message


def test_variables_of_others_are_let_be() -> None:
    """Kubernetes makes such variables in every pod for a service named "recollect"."""
    loaded = from_environment(
        CONFIG="somewhere.toml",
        PORT="tcp://10.0.0.1:8080",
        SERVER_PORT="tcp://10.0.0.1:8080",
        SERVICE_HOST="10.0.0.1",
        PORT_8080_TCP_ADDR="10.0.0.1",
        OWNER="the search team",
    )

    assert loaded.settings == Settings()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[cache", "is not TOML"),
        ("cache = 5", "cache (FILE): should be"),
        ("[cache]\nmax_ttl_s = 60", "cache.ttl_s (3600) should not be more than cache.max_ttl_s"),
        ("[cache]\nstale_if_error_s = 1", "cache.max_stale_s (0)"),
        ("[cache]\nstale_while_revalidate_s = 1", "cache.max_stale_s (0)"),
        ("[[routes]]\nmodels = ['a']\nttl_s = 1e6", "routes.ttl_s (1e+06)"),
        ("[admin]\nport = 8080", "admin.port (8080) should not be server.port"),
        ("[cache]\nttl_s = inf", "cache.ttl_s"),
        ("[cache]\nignore_fields = ['messages']", "should not leave out the question itself"),
        ("[cache]\nkey_headers = ['a b']", "'a b' is no header name"),
        ("[cache]\nkey_headers = 'a'", "cache.key_headers"),
        ("[tenancy]\nnames = {'a b' = []}", "tenant names"),
        ("[tenancy]\nnames = {a = ['abc']}", "64 hexadecimal digits"),
        ("[tenancy]\nsecret = 'short'", "at least 16"),
        ("[upstream]\napi_key = ''", "at least 1"),
        ('[upstream]\napi_key = "a\\nb"', "printable"),
        ('[upstream]\napi_key = "schlüssel"', "printable ASCII"),
        ("[semantic]\nmode = 'maybe'", "semantic.mode = 'maybe' (FILE): should be 'off', 'shadow'"),
        ("[semantic]\nmin_score = 1.01", "semantic.min_score"),
        ("[semantic]\nmin_score = -1.01", "semantic.min_score"),
        ("[semantic]\nhistory = 'some'", "semantic.history"),
        ("[semantic]\ndeadline_ms = 0", "semantic.deadline_ms"),
        ("[semantic]\nmax_batch = 0", "semantic.max_batch"),
        ("[semantic]\nmax_queued = 0", "semantic.max_queued"),
        ("[semantic]\nthreads = 0", "semantic.threads"),
        ("[semantic]\ndevice = 'tpu'", "semantic.device"),
        ("[semantic]\nmodel = ''", "semantic.model"),
        ("[semantic]\nindex_memory_mb = 15", "semantic.index_memory_mb"),
        ("[semantic]\nsnapshot_interval_s = 0.5", "semantic.snapshot_interval_s"),
        ("[semantic]\nindex = 'vector-set'", "should come with semantic.index_url"),
        ("[semantic]\nindex_url = 'http://h'", "should be redis://host:port/db"),
        ("[semantic]\nscripts = ['Latin-1']", "names of Unicode scripts"),
        ("[semantic]\nscripts = ['']", "names of Unicode scripts"),
        ("[semantic]\nscripts = ['Ελληνικά']", "names of Unicode scripts"),
        ("[semantic]\nscripts = 'Latin'", "semantic.scripts"),
        ('[semantic]\ntoken = "a\\nb"', "printable"),
        ("[semantic]\ntoken = ''", "at least 1"),
        ("[[routes]]\nmodels = ['a']\nsemantic = 'maybe'", "routes[0].semantic = 'maybe'"),
        ("[[routes]]\nmodels = ['a']\nhistory = 'some'", "routes[0].history = 'some'"),
    ],
)
def test_what_cannot_work_is_refused(write: WriteFile, toml: str, message: str) -> None:
    """At the start, not at the first request it would spoil."""
    file = write(toml)
    with pytest.raises(SettingsError) as caught:
        load(file, {}, {})

    assert message.replace("FILE", str(file)) in str(caught.value)


def test_settings_wrong_together_name_both_sources(write: WriteFile) -> None:
    """Each is right alone, and either may be the one to change."""
    file = write("[cache]\nmax_ttl_s = 60")
    with pytest.raises(SettingsError) as caught:
        load(file, {}, {"RECOLLECT_CACHE__TTL_S": "61"})

    assert "cache.ttl_s: variable RECOLLECT_CACHE__TTL_S" in str(caught.value)
    assert f"cache.max_ttl_s: {file}" in str(caught.value)


def test_one_key_belongs_to_one_tenant() -> None:
    """Else the order of a table would decide whose entries a client sees."""
    names = {"a": ["0" * 64], "b": ["0" * 64]}

    assert "two tenants" in mistakes_of(TENANCY__NAMES=json.dumps(names))


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("http://[::1]:8000/openai/v1", "http://[::1]:8000/openai/v1"),
        ("", ""),
    ],
)
def test_an_upstream_url_loses_its_trailing_slash(url: str, normal: str) -> None:
    """`/v1/` and `/v1` are the same base; a path is appended to it."""
    assert from_environment(UPSTREAM__BASE_URL=url).settings.upstream.base_url == normal


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "http://host:0",
        "http://host:99999",
        "http://[::1",
        "http://user:pa55@host",
        "http://host/v1?x=1",
        "http://host/v1#",
        "http://host/a b",
    ],
)
def test_an_upstream_url_that_is_none_is_refused(url: str) -> None:
    """Credentials belong into `upstream.api_key`, where they are masked."""
    assert "upstream.base_url" in mistakes_of(UPSTREAM__BASE_URL=url)


@pytest.mark.parametrize(
    "url",
    ["redis://h", "redis://u:p@h:6379/2", "rediss://h:1", "unix:///run/r.sock", "redis://[::1]:1"],
)
def test_a_redis_url_is_taken_as_it_is(url: str) -> None:
    """The forms redis-cli and redis-py know."""
    assert from_environment(REDIS__URL=url).settings.redis.url == url


@pytest.mark.parametrize(
    "url",
    ["h:6379", "http://h", "redis://", "redis://h/x", "redis://h:0", "redis://h:x", "unix://"],
)
def test_a_redis_url_that_is_none_is_refused(url: str) -> None:
    """Else it would look like a Redis that is down, for ever."""
    assert "redis.url" in mistakes_of(REDIS__URL=url)


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("http://gpu-host:8200", "http://gpu-host:8200"),
        ("http://gpu-host:8200/", "http://gpu-host:8200"),
        ("http://[::1]:8200", "http://[::1]:8200"),
        ("unix:///run/recollect/e.sock", "unix:///run/recollect/e.sock"),
        ("", ""),
    ],
)
def test_an_embedding_address_is_a_port_or_a_socket(address: str, normal: str) -> None:
    """A trailing slash says nothing."""
    assert from_environment(SEMANTIC__ADDRESS=address).settings.semantic.address == normal


@pytest.mark.parametrize(
    "address",
    [
        "gpu-host:8200",
        "http://gpu-host",
        "http://:8200",
        "http://gpu-host:0",
        "http://gpu-host:99999",
        "https://gpu-host:8200",
        "http://gpu-host:8200/look-up",
        "http://gpu-host:8200?x=1",
        "http://gpu-host:8200#x",
        "http://user:pa55@gpu-host:8200",
        "http://[::1",
        "unix://",
        "unix:///",
        "unix://run/e.sock",
        "unix:///run/e.sock?x=1",
    ],
)
def test_an_embedding_address_that_is_none_is_refused(address: str) -> None:
    """Else it would look like a process that is down, for ever."""
    message = mistakes_of(SEMANTIC__ADDRESS=address)

    assert "semantic.address" in message
    assert "should be http://host:port or unix:///path" in message


def test_scripts_are_named_as_unicode_names_them() -> None:
    """A capital first, whatever was typed."""
    scripts = from_environment(SEMANTIC__SCRIPTS='["latin", "HAN"]').settings.semantic.scripts

    assert scripts == ("Latin", "Han")


def test_index_in_a_redis_8_needs_its_address() -> None:
    """It is another Redis than the one that holds the entries."""
    url = "redis://vectors:6379"
    semantic = from_environment(
        SEMANTIC__INDEX="vector-set", SEMANTIC__INDEX_URL=url
    ).settings.semantic

    assert (semantic.index, semantic.index_url) == ("vector-set", url)


def test_semantic_mode_is_not_decided_by_the_settings_alone() -> None:
    """Whether the extra is installed decides, where nothing is said (`proxy.embedding.start`)."""
    assert Settings().semantic.mode is None
    assert from_environment(SEMANTIC__MODE="shadow").settings.semantic.mode == "shadow"


def test_token_of_the_embedding_process_may_stand_in_a_file(tmp_path: Path) -> None:
    """As every secret that several hosts share."""
    file = tmp_path / "token"
    file.write_text("t0ken\n")

    loaded = from_environment(SEMANTIC__TOKEN_FILE=str(file))

    assert loaded.settings.semantic.token == SecretStr("t0ken")
    assert loaded.sources["semantic.token"] == f"file {file}"
    assert "is set too" in mistakes_of(SEMANTIC__TOKEN="t0ken", SEMANTIC__TOKEN_FILE=str(file))


def test_secrets_of_the_semantic_tier_are_masked() -> None:
    """On a terminal, in a log and in an error."""
    assert mask("semantic.token", "pa55") == "********"
    assert mask("semantic.index_url", "redis://:pa55@h") == "redis://:********@h"
    settings = from_environment(
        SEMANTIC__TOKEN="pa55", SEMANTIC__INDEX_URL="redis://:pa55@h"
    ).settings
    assert "pa55" not in repr(settings)
    message = mistakes_of(SEMANTIC__TOKEN="pa55\n", SEMANTIC__INDEX_URL="redis://:pa55@h:x")
    assert "pa55" not in message


def test_a_secret_is_read_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    """Editors and `echo` end a file with a line end, which is no part of a key."""
    file = tmp_path / "key"
    file.write_text("sk-1\n")

    loaded = from_environment(UPSTREAM__API_KEY_FILE=str(file))

    assert loaded.settings.upstream.api_key == SecretStr("sk-1")
    assert loaded.sources["upstream.api_key"] == f"file {file}"


def test_a_secret_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    """Both files are named, and the reason."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    message = mistakes_of(
        UPSTREAM__API_KEY_FILE=str(tmp_path / "missing"),
        TENANCY__SECRET_FILE=str(tmp_path / "binary"),
    )

    assert f"{tmp_path / 'missing'}: No such file or directory" in message
    assert f"{tmp_path / 'binary'}: is no text file" in message


def test_a_secret_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    """Which of two was meant cannot be told."""
    message = mistakes_of(UPSTREAM__API_KEY="sk-1", UPSTREAM__API_KEY_FILE=str(tmp_path))

    assert "upstream.api_key (variable RECOLLECT_UPSTREAM__API_KEY) is set too" in message


def test_an_upstream_is_needed_only_to_serve() -> None:
    """`recollect config check` on a file is no error when the flag will give the address."""
    load(None, {}, {})
    load(None, {"upstream.base_url": "http://h"}, {}, is_upstream_needed=True)
    with pytest.raises(SettingsError, match=r"upstream\.base_url: not set"):
        load(None, {}, {}, is_upstream_needed=True)


@pytest.mark.parametrize("mode", ["on", "shadow"])
def test_a_semantic_mode_that_cannot_be_names_where_it_was_set_and_what_would_do(
    mode: str, write: WriteFile
) -> None:
    """Not a tier that silently never hits; and beside the other mistakes, not after them."""
    file = write(f'[semantic]\nmode = "{mode}"')

    with pytest.raises(SettingsError) as caught:
        load(file, {}, {}, is_upstream_needed=True, can_embed=False)

    mistake = f"semantic.mode = '{mode}' ({file}): needs the extra"
    assert len(caught.value.mistakes) == 2
    assert caught.value.mistakes[1].startswith(mistake)
    for right in ('"off"', "EXTRAS=semantic", "semantic.address"):
        assert right in caught.value.mistakes[1]


@pytest.mark.parametrize(
    "semantic", [{}, {"mode": "off"}, {"mode": "on", "address": "http://gpu-host:8200"}]
)
def test_without_the_extra_the_tier_may_be_off_or_elsewhere(semantic: dict[str, str]) -> None:
    """A worker needs nothing of the extra; its host need not have it."""
    load(None, {}, {"RECOLLECT_SEMANTIC": json.dumps(semantic)}, can_embed=False)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """A file that was meant and is not there must not look like defaults that were meant."""
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "missing.toml", {}, {})


def test_the_file_is_the_flags_then_the_variables_then_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--config`, else $RECOLLECT_CONFIG, else ./recollect.toml if it exists; absolute."""
    monkeypatch.chdir(tmp_path)
    environ = {"RECOLLECT_CONFIG": "variable.toml"}

    assert find_config_file(None, {}) is None
    Path("recollect.toml").touch()
    assert find_config_file(None, {}) == tmp_path / "recollect.toml"
    assert find_config_file(None, {"RECOLLECT_CONFIG": ""}) == tmp_path / "recollect.toml"
    assert find_config_file(None, environ) == tmp_path / "variable.toml"
    assert find_config_file(Path("flag.toml"), environ) == tmp_path / "flag.toml"


def test_the_data_folder_follows_the_xdg_specification(tmp_path: Path) -> None:
    """XDG Base Directory Specification: relative paths are ignored; the default is in $HOME."""
    default = Path.home() / ".local" / "share" / "recollect"

    assert data_folder(Settings(), {}) == default
    assert data_folder(Settings(), {"XDG_DATA_HOME": "relative"}) == default
    assert data_folder(Settings(), {"XDG_DATA_HOME": str(tmp_path)}) == tmp_path / "recollect"
    chosen = from_environment(SERVER__DATA_DIR=str(tmp_path / "own")).settings
    assert data_folder(chosen, {"XDG_DATA_HOME": "/elsewhere"}) == tmp_path / "own"


def test_no_error_shows_a_secret(write: WriteFile) -> None:
    """Errors end in logs and tickets."""
    file = write(
        '[upstream]\napi_key = "pa55\\n"\nbase_url = "http://u:pa55@h"\napi_kye = "pa55"\n'
        '[redis]\nurl = "redis://:pa55@h:x"\n[tenancy]\nsecret = "pa55"\nnames = {a = ["pa55"]}\n'
        '[admin]\ntoken = ["pa55"]\n'
    )
    with pytest.raises(SettingsError) as caught:
        load(file, {}, {"RECOLLECT_LOG": '"pa55"'})

    assert len(caught.value.mistakes) == 8
    assert "pa55" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_secret_of_the_models_is_masked() -> None:
    """A secret added to the models and not to the list would be shown."""
    secrets = set()
    for section, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for name, inner in field.annotation.model_fields.items():
                if "SecretStr" in str(typing.get_args(inner.annotation)):
                    secrets.add(f"{section}.{name}")

    assert secrets == SECRET_KEYS


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://user:pa55@host:1/0", "redis://user:********@host:1/0"),
        ("redis://:pa55@host", "redis://:********@host"),
        ("redis://token@host", "redis://********@host"),
        ("redis://u:p@5:5@host/x", "redis://u:********@host/x"),
        ("redis://host?password=pa55&db=1", "redis://host?password=********&db=1"),
        ("http://host/v1", "http://host/v1"),
        ("no URL", "no URL"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, masked: str) -> None:
    """Shown by `recollect config show` and in errors."""
    assert mask_url(text) == masked


def test_masking_keeps_what_is_no_secret() -> None:
    """Nested values too; digests of keys are secrets, names of tenants are not."""
    assert mask("admin.token", "pa55") == "********"
    assert mask("admin.token", None) is None
    assert mask("tenancy.names", {"a": ["0" * 64]}) == {"a": "********"}
    assert mask("routes", [{"models": ["x"], "ttl_s": None}]) == [{"models": ["x"], "ttl_s": None}]
    assert mask("server.data_dir", Path("/x")) == "/x"


@given(st.text(st.characters(exclude_characters="@/?#:"), min_size=1))
def test_no_password_of_a_url_is_ever_shown(password: str) -> None:
    """Whatever it holds, valid or not."""
    secret = f"<{password}>"

    assert secret not in mask_url(f"redis://user:{secret}@host:1/0")


def test_secrets_are_written_in_clear_only_when_asked_to() -> None:
    """A dump for a log hides them; the pipe to a worker needs them."""
    settings = from_environment(UPSTREAM__API_KEY="pa55", TENANCY__SECRET="pa55" * 4).settings

    assert "pa55" not in settings.model_dump_json()
    assert "pa55" not in repr(settings)
    revealed = settings.model_dump_json(context=REVEAL_SECRETS)
    assert Settings.model_validate_json(revealed) == settings


def test_settings_are_frozen() -> None:
    """What was checked is what is in effect."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1
