"""Each source of storage keys becomes a lease.

Each failure becomes an error of the table, without a secret in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.store.keys import ProviderKeys, Source
from agent.model.errors import CloudError, judge
from tests.harness.resolver import every_name_leads_to_one_server
from tests.harness.scripted_http_server import Oracle, ReceivedRequest, ScriptedAnswer

ENDS = datetime(2031, 5, 6, 7, 8, 9, tzinfo=timezone.utc)
VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY",
    "AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE", "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_REGION", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_ALIAS",
    "CREDENTIALS_DIRECTORY",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.stop()


@pytest.fixture
def told() -> set[str]:
    return set()


Make = Callable[..., ProviderKeys]


@pytest.fixture
def make(told: set[str]) -> Make:
    def make(source: Source, **options: Any) -> ProviderKeys:
        options.setdefault("endpoint", "http://127.0.0.1:1")
        return ProviderKeys(
            source, clock=RealClock(), hide=lambda *secrets, **_: told.update(secrets), **options
        )

    return make


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def granted(action: str, number: int = 1) -> ScriptedAnswer:
    body = f"""<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
    <{action}Result><Credentials>
      <AccessKeyId>session-{number}</AccessKeyId>
      <SecretAccessKey>session-secret-{number}</SecretAccessKey>
      <SessionToken>session-token-{number}</SessionToken>
      <Expiration>{ENDS:%Y-%m-%dT%H:%M:%SZ}</Expiration>
    </Credentials></{action}Result></{action}Response>"""
    return ScriptedAnswer(body=body.encode())


def refusal(make: ProviderKeys) -> CloudError:
    with pytest.raises(CloudError) as raised:
        make.lease()
    return raised.value


def test_keys_in_the_environment_have_no_end_and_are_read_anew(
    make: Make, monkeypatch: pytest.MonkeyPatch, told: set[str]
) -> None:
    keys = make("env")
    assert refusal(keys).code == "storage_keys"
    monkeypatch.setenv("MINIO_ACCESS_KEY", "minio-key")
    monkeypatch.setenv("MINIO_SECRET_KEY", "minio-secret")
    assert keys.lease().access_key_id == "minio-key"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "aws-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "aws-token")
    lease = keys.lease()
    assert (lease.access_key_id, lease.secret_access_key, lease.session_token) == (
        "aws-key",
        "aws-secret",
        "aws-token",
    )
    assert lease.expires_at == float("inf")
    assert {"minio-secret", "aws-secret", "aws-token"} <= told


def test_keys_in_a_file_of_aws_are_those_of_the_profile(make: Make, tmp_path: Path) -> None:
    text = (
        "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
        "[robot]\naws_access_key_id = c\n"
        "aws_secret_access_key = d/+=\naws_session_token = e\n"
    )
    file = private(tmp_path / "credentials", text)
    assert make("file", credentials_file=file).lease().access_key_id == "a"
    lease = make("file", credentials_file=file, profile="robot").lease()
    assert (lease.access_key_id, lease.secret_access_key, lease.session_token) == ("c", "d/+=", "e")
    assert refusal(make("file", credentials_file=file, profile="nobody")).code == "storage_keys"


def test_the_usual_file_of_aws_is_looked_for_at_home(make: Make, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    private(
        tmp_path / ".aws" / "credentials",
        "[default]\naws_access_key_id = a\naws_secret_access_key = b\n",
    )
    assert make("file").lease().access_key_id == "a"


def test_keys_in_a_file_of_mc_are_those_of_the_alias(make: Make, tmp_path: Path) -> None:
    hosts = {"aliases": {"robot": {"url": "http://x", "accessKey": "a", "secretKey": "b"}}}
    file = private(tmp_path / "config.json", json.dumps(hosts))
    assert make("file", credentials_file=file, profile="robot").lease().access_key_id == "a"


def test_a_file_that_others_can_read_is_refused(make: Make, tmp_path: Path) -> None:
    file = private(
        tmp_path / "credentials", "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    file.chmod(0o644)
    error = refusal(make("file", credentials_file=file))
    assert error.code == "storage_keys"
    assert "chmod o-r" in error.message


@pytest.mark.parametrize(
    "text", ["no section and hunter2!", "[default]\nhunter2!\n", "\xff", "[default]\n"]
)
def test_a_file_that_holds_something_else_is_not_quoted(
    make: Make, tmp_path: Path, text: str
) -> None:
    error = refusal(make("file", credentials_file=private(tmp_path / "credentials", text)))
    assert error.code == "storage_keys"
    assert "hunter2!" not in error.message


def test_a_file_that_is_missing_is_named(make: Make, tmp_path: Path) -> None:
    assert (
        str(tmp_path / "none") in refusal(make("file", credentials_file=tmp_path / "none")).message
    )


def test_a_role_is_assumed_with_the_users_keys_each_time(
    make: Make, oracle: Oracle, tmp_path: Path, told: set[str]
) -> None:
    numbers = iter((1, 2))
    oracle.say = lambda _request: granted("AssumeRole", next(numbers))
    file = private(
        tmp_path / "credentials",
        "[default]\naws_access_key_id = user\naws_secret_access_key = user-key\n",
    )
    keys = make(
        "assume-role",
        endpoint=oracle.endpoint,
        credentials_file=file,
        role_arn="arn:robot",
        external_id="outside",
    )
    first, second = keys.lease(), keys.lease()
    assert (first.access_key_id, first.session_token) == ("session-1", "session-token-1")
    assert second.access_key_id == "session-2"
    assert first.expires_at == ENDS.timestamp()
    asked = parse_qs(oracle.seen[0].body.decode())
    assert (asked["Action"], asked["RoleArn"], asked["ExternalId"]) == (
        ["AssumeRole"],
        ["arn:robot"],
        ["outside"],
    )
    assert "Credential=user/" in oracle.seen[0].headers["authorization"]
    assert {"user-key", "session-secret-1", "session-token-2"} <= told


def test_a_web_identity_is_traded_for_keys_with_the_token_of_the_moment(
    make: Make, oracle: Oracle, tmp_path: Path, told: set[str]
) -> None:
    oracle.say = lambda _request: granted("AssumeRoleWithWebIdentity")
    token = private(tmp_path / "token", "token-1\n")
    keys = make(
        "web-identity",
        sts_endpoint=oracle.endpoint,
        web_identity_token_file=token,
        role_arn="arn:robot",
    )
    assert keys.lease().access_key_id == "session-1"
    private(token, "token-2\n")
    keys.lease()
    sent = [parse_qs(urlsplit(request.path).query)["WebIdentityToken"] for request in oracle.seen]
    assert sent == [["token-1"], ["token-2"]]
    assert {"token-1", "token-2"} <= told


def test_an_instance_asks_the_service_that_it_was_told_of(
    make: Make, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {
        "AccessKeyId": "a",
        "SecretAccessKey": "b",
        "Token": "c",
        "Expiration": f"{ENDS:%Y-%m-%dT%H:%M:%SZ}",
    }
    oracle.say = lambda _request: ScriptedAnswer(body=json.dumps(document).encode())
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{oracle.endpoint}/keys")
    lease = make("instance").lease()
    assert (lease.access_key_id, lease.session_token, lease.expires_at) == (
        "a",
        "c",
        ENDS.timestamp(),
    )


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "user-key")


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("answer", "code", "kind"),
    [
        (
            ScriptedAnswer(403, body=b"<E><Error><Code>AccessDenied</Code></Error></E>"),
            "AccessDenied",
            "blocked",
        ),
        (
            ScriptedAnswer(403, body=b"<E><Code>InvalidClientTokenId</Code></E>"),
            "InvalidClientTokenId",
            "blocked",
        ),
        (ScriptedAnswer(503), "HTTP_503", "offline"),
        (ScriptedAnswer(200, body=b"<Something/>"), "storage_keys", "blocked"),
        (
            ScriptedAnswer(200, body=b'<?xml version="1.0" encoding="klingon"?><R/>'),
            "storage_keys",
            "blocked",
        ),
        (ScriptedAnswer(302, {"Location": "http://portal"}), "portal", "offline"),
    ],
)
def test_what_the_token_service_refuses_is_judged_by_the_table(
    make: Make, oracle: Oracle, answer: ScriptedAnswer, code: str, kind: str
) -> None:
    oracle.say = lambda _request: answer
    error = refusal(make("assume-role", sts_endpoint=oracle.endpoint))
    assert (error.code, judge(error).kind) == (code, kind)


def test_an_answer_that_quotes_a_secret_is_told_without_it(
    make: Make, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2!")

    def say(_request: ReceivedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(
            403, body=b"<E><Code>AccessDenied</Code><Message>hunter2! is wrong</Message></E>"
        )

    oracle.say = say
    assert "hunter2!" not in refusal(make("assume-role", sts_endpoint=oracle.endpoint)).message


@pytest.mark.usefixtures("user")
def test_a_token_service_that_is_away_is_offline(make: Make) -> None:
    assert judge(refusal(make("assume-role"))).kind == "offline"


FRANKFURT = "https://s3.eu-central-1.amazonaws.com"


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("endpoint", "region", "sts_endpoint", "host", "signed"),
    [
        (FRANKFURT, "", "", "sts.eu-central-1.amazonaws.com", "eu-central-1"),
        (
            "s3.dualstack.us-gov-west-1.amazonaws.com",
            "",
            "",
            "sts.us-gov-west-1.amazonaws.com",
            "us-gov-west-1",
        ),
        (
            "https://s3.cn-north-1.amazonaws.com.cn",
            "",
            "",
            "sts.cn-north-1.amazonaws.com.cn",
            "cn-north-1",
        ),
        ("https://s3.amazonaws.com", "", "", "sts.us-east-1.amazonaws.com", "us-east-1"),
        ("https://s3.amazonaws.com", "eu-west-1", "", "sts.eu-west-1.amazonaws.com", "eu-west-1"),
        # A configured token service is signed for its own region. The region of the bucket does not
        # matter.
        (
            FRANKFURT,
            "",
            "https://sts.eu-west-1.amazonaws.com",
            "sts.eu-west-1.amazonaws.com",
            "eu-west-1",
        ),
        (FRANKFURT, "eu-central-1", "sts.amazonaws.com", "sts.amazonaws.com", "us-east-1"),
        # A name without a region is signed for the region of the bucket.
        (FRANKFURT, "", "https://sts.example.org", "sts.example.org", "eu-central-1"),
        # A store on a machine of AWS is not part of AWS. The store itself answers for its keys.
        (
            "https://ec2-1.eu-west-1.compute.amazonaws.com",
            "",
            "",
            "ec2-1.eu-west-1.compute.amazonaws.com",
            "us-east-1",
        ),
    ],
)
def test_a_role_is_assumed_at_the_token_service_of_its_region(
    *,
    make: Make,
    endpoint: str,
    region: str,
    sts_endpoint: str,
    host: str,
    signed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with every_name_leads_to_one_server(host, tmp_path, monkeypatch) as internet:
        internet.oracle.say = lambda _request: granted("AssumeRole")
        make(
            "assume-role",
            endpoint=endpoint,
            region=region,
            sts_endpoint=sts_endpoint,
            ca_file=str(internet.ca_file),
        ).lease()
    assert internet.resolved == [host]
    (request,) = internet.oracle.seen
    assert request.headers["host"] == host
    assert f"/{signed}/sts/aws4_request" in request.headers["authorization"]


def test_a_token_service_without_a_scheme_gets_the_token_over_tls(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = private(tmp_path / "token", "token-1")
    with every_name_leads_to_one_server("sts.example.org", tmp_path, monkeypatch) as internet:
        internet.oracle.say = lambda _request: granted("AssumeRoleWithWebIdentity")
        keys = make(
            "web-identity",
            sts_endpoint="sts.example.org",
            web_identity_token_file=token,
            ca_file=str(internet.ca_file),
        )
        assert keys.lease().access_key_id == "session-1"
