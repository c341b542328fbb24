"""Secrets are refused by name and by pattern, and not repeated. Tokens are concatenated here, so
that this file holds none.
"""

from pathlib import Path

import pytest

import wbdc
from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.submit.pack.secrets import MAX_SCANNED_BYTES, refuse_secrets

TOKENS = {
    "Hugging Face": "hf_" + "aB3" * 12,
    "GitHub": "ghp_" + "aB3" * 12,
    "GitLab": "glpat-" + "aB3-" * 5,
    "Amazon": "AKIA" + "IOSF7ODNN7EX4MPL",
    "Google": "AIza" + "aB3_-" * 7,
    "Slack": "xoxb-" + "123456789012-abc",
    "PyPI": "pypi-" + "AgE" + "aB3d5" * 10,
    "language model": "sk-" + "proj-" + "aB3d5" * 6,
    "private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "password in an address": "https://me:" + "hunter2@index.example/simple",
}


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.local",
        "prod.env",
        ".netrc",
        "id_rsa",
        "ID_ED25519",
        "server.pem",
        "credentials.json",
        "kaggle.json",
        ".pypirc",
    ],
)
def test_a_file_with_a_secret_name_is_refused_at_any_depth(tmp_path, name):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / name).write_text("")
    with pytest.raises(UsageFault, match=rf"1 files .*{name}"):
        refuse_secrets(tmp_path)


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_token_is_refused_by_its_pattern_and_not_repeated(tmp_path, kind, encoding):
    (tmp_path / "notes.txt").write_text(f'token = "{TOKENS[kind]}"\n', encoding=encoding)
    with pytest.raises(UsageFault, match=rf"notes\.txt \(.*{kind}") as raised:
        refuse_secrets(tmp_path)
    assert TOKENS[kind] not in str(raised.value)
    assert TOKENS[kind][-8:] not in str(raised.value)


@pytest.mark.parametrize(
    "token",
    [
        "api_org_" + "aB3" * 12,
        *(f"gh{letter}_" + "aB3" * 12 for letter in "ousr"),
        "github_pat_" + "aB3d5" * 10,
        "ASIA" + "IOSF7ODNN7EX4MPL",
        *(f"sk-{service}-" + "aB3d5" * 6 for service in ("ant", "or")),
        "http://me:" + "hunter2@index.example/simple",
    ],
)
def test_the_other_starts_of_tokens_are_refused(tmp_path, token):
    (tmp_path / "notes.txt").write_text(token)
    with pytest.raises(UsageFault, match=r"notes\.txt"):
        refuse_secrets(tmp_path)


@pytest.mark.parametrize(
    "kind", [k for k in TOKENS if k not in ("private key", "password in an address")]
)
def test_the_start_of_a_token_is_not_a_secret(tmp_path, kind):
    (tmp_path / "notes.txt").write_text(TOKENS[kind][:9])
    refuse_secrets(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "https://user@host.example/x",
        "http://host:8080/a@b",
        "https://{user}:{password}@host/",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "elf_" + "a" * 40,
    ],
)
def test_similar_text_is_not_a_secret(tmp_path, text):
    for name in ("secrets.py", "environment.yml", "keys.py", "id_rsa.pub"):
        (tmp_path / name).write_text(text)
    refuse_secrets(tmp_path)


def test_the_source_of_wbdc_holds_no_secret():
    home = Path(wbdc.__file__).parent
    assert (home / "submit" / "pack" / "secrets.py").is_file()
    refuse_secrets(home)


def test_only_the_listed_files_are_checked_in_any_order(tmp_path):
    names = [tmp_path / name for name in ("b.txt", ".netrc", "a.txt")]
    for path in names:
        path.write_text(TOKENS["GitHub"])
    (tmp_path / "clean.txt").write_text("nothing")
    refuse_secrets([tmp_path / "clean.txt"])
    refuse_secrets([])
    messages = []
    for order in (names, names[::-1]):
        with pytest.raises(UsageFault, match="3 files") as raised:
            refuse_secrets(iter(order))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert str(tmp_path / ".netrc") + " (a login)" in messages[0]


def test_large_files_are_checked_by_name_only(tmp_path):
    token = TOKENS["GitHub"].encode()
    (tmp_path / "tokenizer.json").write_bytes(token.rjust(MAX_SCANNED_BYTES))
    refuse_secrets(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(token.rjust(MAX_SCANNED_BYTES - 1))
    with pytest.raises(UsageFault, match=r"tokenizer\.json"):
        refuse_secrets(tmp_path)


def test_an_unreadable_file_is_an_error(tmp_path):
    with pytest.raises(EnvironmentFault, match="absent cannot be read"):
        refuse_secrets(tmp_path / "absent")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(EnvironmentFault, match="dangling cannot be read"):
        refuse_secrets(tmp_path)
