"""The settings for a team: the URL of the ledger's database, and the URL of the gallery's bucket."""

import re
from pathlib import Path

import pytest

from mcp_vega.errors import InvalidSettings
from mcp_vega.settings import Settings
from mcp_vega.settings.secrets import secrets_of

# A part of a password or key, which no message may show.
SECRET = "hush0"


def refusal(**variables: str) -> str:
    """What the error says about variables that cannot be used."""
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_environment(variables)
    return caught.value.text


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://vega:hush0@db.example:5433/vega?sslmode=require", "postgresql://db.example:5433/vega"),
        ("postgres://db.example", "postgresql://db.example:5432"),
        ("PostgreSQL://vega@db.example/vega", "postgresql://db.example:5432/vega"),
        ("postgresql://vega:hush0%40%2F@[::1]/vega", "postgresql://[::1]:5432/vega"),
        ("postgresql://vega:hush0:x@db.example/vega?port=77&password=hush0", "postgresql://db.example:77/vega"),
        ("postgresql:///vega?host=/run/postgresql", "postgresql:///vega?host=/run/postgresql"),
        ("postgresql://vega@%2Frun%2Fpostgresql/vega", "postgresql:///vega?host=/run/postgresql"),
        ("postgresql://one:1,two/vega?target_session_attrs=read-write", "postgresql://one:1,two:5432/vega"),
    ],
)
def test_the_ledgers_name_has_neither_user_nor_password_nor_options(url: str, name: str) -> None:
    settings = Settings.from_environment({"MCP_VEGA_LEDGER": f' "{url}" '})
    assert settings.ledger_name == name
    assert settings.ledger is not None
    assert settings.ledger.get_secret_value().partition("://")[::2] == (
        url.lower().partition("://")[0],
        url.partition("://")[2],
    )
    assert SECRET not in repr(settings)


def test_without_a_url_the_ledgers_name_is_its_file(tmp_path: Path) -> None:
    settings = Settings.from_environment({"MCP_VEGA_HOME": str(tmp_path), "MCP_VEGA_LEDGER": " "})
    assert (settings.ledger, settings.ledger_name) == (None, str(tmp_path / "ledger.sqlite3"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://vega:hush0@db.example/vega", "must begin with postgresql://"),
        ("/var/lib/ledger.sqlite3", "the folder of the SQLite file is in MCP_VEGA_HOME"),
        ("host=/run/postgresql dbname=vega password=hush0", "the form with key=value is not accepted"),
        ("password = hush0", "such as postgresql://user:password@host:5432/database"),
        ("postgresql:///vega", "it names no host"),
        ("postgresql://vega:hush0@/vega", "it names no host"),
        ("postgresql://vega:hush0@db.example:70000/vega", "port must be a number from 1 to 65535"),
        ("postgresql://vega:hush0@db.example:port/vega", "its host or port is not valid"),
        ("postgresql://vega:hush0 @db.example/vega", "must not contain spaces"),
        ("postgresql://db.example/vega?hush0", "must be written as name=value"),
        # PostgreSQL's client would take the rest of these passwords for a host, a port, a database or a wrong escape,
        # and its error would quote them.
        *(
            (f"postgresql://vega:x{character}hush0@db.example/vega", "percent-encode special characters")
            for character in "@/#?%"
        ),
    ],
)
def test_a_url_that_is_not_one_of_a_database_is_refused_without_its_password(url: str, words: str) -> None:
    said = refusal(MCP_VEGA_LEDGER=url)
    assert "MCP_VEGA_LEDGER cannot be used: " in said
    assert words in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("s3://bucket", "s3://bucket"),
        (" 'S3://bucket/of/a-team//' ", "s3://bucket/of/a-team"),
        ("gs://bucket/folder", "gs://bucket/folder"),
        ("az://container", "az://container"),
    ],
)
def test_the_gallery_may_be_a_bucket_and_the_sandbox_has_a_folder_in_it(written: str, url: str) -> None:
    settings = Settings.from_environment({"MCP_VEGA_GALLERY": written})
    assert (settings.gallery, settings.gallery_url) == (url, url)
    sandbox = Settings.from_environment({"MCP_VEGA_GALLERY": written, "MCP_VEGA_SANDBOX": "1"})
    assert sandbox.gallery_url == f"{url}/sandbox"


def test_a_gallery_on_the_disk_has_no_url() -> None:
    settings = Settings.from_environment({"MCP_VEGA_GALLERY": "~/pictures", "MCP_VEGA_SANDBOX": "1"})
    assert (settings.gallery_url, settings.gallery_folder) == ("", Path("~/pictures/sandbox").expanduser())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://bucket.s3.amazonaws.com/folder", "set in AWS_ENDPOINT_URL"),
        ("file:///pictures", "without file://"),
        ("ftp://server/pictures", "a bucket such as s3://bucket/folder"),
        *(
            (f"s3://{rest}", "it names no bucket")
            for rest in ("", "/folder", "a", "bucket:80/folder", "[::1", "bucket?a")
        ),
        ("s3://AKIA:hush0@bucket/folder", "must not contain keys"),
        *(
            (f"s3://bucket/{folder}", "its folders may have")
            for folder in ("..", "a/../b", "a?b", "a#b", "a%2Fb", "a b", "a\nb", "ä")
        ),
    ],
)
def test_a_url_that_is_not_one_of_a_bucket_is_refused(url: str, words: str) -> None:
    said = refusal(MCP_VEGA_GALLERY=url)
    assert re.search(f"MCP_VEGA_GALLERY cannot be used: .*{re.escape(words)}", said)
    assert SECRET not in said


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgresql://vega:a%2Fb@db.example/vega", {"a/b", "a%2Fb"}),
        ("postgresql://db.example/vega?password=a%2Fb+c", {"a/b+c", "a%2Fb%2Bc"}),
        ("postgresql://db.example/vega?sslpassword=of+key", {"of+key", "of%2Bkey"}),
    ],
)
def test_every_spelling_of_a_password_of_the_ledger_is_a_secret(url: str, secrets: set[str]) -> None:
    settings = Settings.from_environment({"MCP_VEGA_LEDGER": url})
    assert set(secrets_of(settings, {})) == {*secrets, url}
