"""The region is read from the host name of the endpoint. Requests go to exactly that host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import botocore
import pytest

from agent.adapters.clock import RealClock
from agent.adapters.store import MinioStore
from agent.adapters.store.regions import StoreHost, store_host, token_service_region
from agent.model.errors import CloudError, judge
from tests.harness.resolver import every_name_leads_to_one_server, signed_region
from tests.harness.scripted_http_server import LEASE, XML, ScriptedAnswer, session_at

COM, CHINA, EUROPE = "amazonaws.com", "amazonaws.com.cn", "amazonaws.eu"

# Each item holds a host name of AWS in one of its forms, the region in the name, and the domain.
AWS_HOSTS = [
    # The names of regional hosts.
    ("s3.us-east-1.amazonaws.com", "us-east-1", COM),
    ("s3.eu-central-1.amazonaws.com", "eu-central-1", COM),
    ("s3.ap-southeast-3.amazonaws.com", "ap-southeast-3", COM),
    ("s3.mx-central-1.amazonaws.com", "mx-central-1", COM),
    ("S3.EU-Central-1.AmazonAWS.com", "eu-central-1", COM),
    ("s3.eu-central-1.amazonaws.com.", "eu-central-1", COM),
    # The names of dual-stack hosts.
    ("s3.dualstack.eu-west-3.amazonaws.com", "eu-west-3", COM),
    ("s3.dualstack.cn-north-1.amazonaws.com.cn", "cn-north-1", CHINA),
    # The names of FIPS hosts, with and without dual-stack.
    ("s3-fips.ca-central-1.amazonaws.com", "ca-central-1", COM),
    ("s3-fips.dualstack.us-east-2.amazonaws.com", "us-east-2", COM),
    # The names of hosts in China.
    ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1", CHINA),
    ("s3.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1", CHINA),
    # The names of hosts in GovCloud, the old names included.
    ("s3.us-gov-west-1.amazonaws.com", "us-gov-west-1", COM),
    ("s3-fips.us-gov-east-1.amazonaws.com", "us-gov-east-1", COM),
    ("s3.dualstack.us-gov-east-1.amazonaws.com", "us-gov-east-1", COM),
    ("s3-us-gov-west-1.amazonaws.com", "us-gov-west-1", COM),
    ("s3-fips-us-gov-west-1.amazonaws.com", "us-gov-west-1", COM),
    # The names of hosts in the European Sovereign Cloud.
    ("s3.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", EUROPE),
    # The names of interface endpoints in a VPC, each of a region or of one of its zones.
    ("bucket.vpce-1a2b3c4d-5e6f.s3.us-west-2.vpce.amazonaws.com", "us-west-2", COM),
    ("bucket.vpce-1a2b3c4d-5e6f-us-west-2a.s3.us-west-2.vpce.amazonaws.com", "us-west-2", COM),
    ("bucket.vpce-1a2b3c4d-5e6f.s3.cn-north-1.vpce.amazonaws.com.cn", "cn-north-1", CHINA),
    ("accesspoint.vpce-1a2b3c4d-5e6f.s3.eu-north-1.vpce.amazonaws.com", "eu-north-1", COM),
    ("vpce-1a2b3c4d-5e6f.s3.eu-west-1.vpce.amazonaws.com", "eu-west-1", COM),
    # The old form of the names.
    ("s3-eu-west-1.amazonaws.com", "eu-west-1", COM),
    ("s3-us-west-2.amazonaws.com", "us-west-2", COM),
    # The names of access points.
    ("s3-accesspoint.eu-west-1.amazonaws.com", "eu-west-1", COM),
    ("s3-accesspoint-fips.dualstack.us-east-1.amazonaws.com", "us-east-1", COM),
    # These names hold no region.
    ("s3.amazonaws.com", "us-east-1", COM),
    ("s3-external-1.amazonaws.com", "us-east-1", COM),
    ("s3-accelerate.amazonaws.com", "us-east-1", COM),
    ("s3-accelerate.dualstack.amazonaws.com", "us-east-1", COM),
    ("s3.amazonaws.com.cn", "cn-north-1", CHINA),
]

OSS_HOSTS = [
    ("oss-cn-hangzhou.aliyuncs.com", "oss-cn-hangzhou"),
    ("oss-cn-hangzhou-internal.aliyuncs.com", "oss-cn-hangzhou"),
    ("s3.oss-cn-hangzhou.aliyuncs.com", "oss-cn-hangzhou"),
    ("s3.oss-cn-hangzhou-internal.aliyuncs.com", "oss-cn-hangzhou"),
    ("oss-accelerate.aliyuncs.com", "oss-accelerate"),
    ("cn-hangzhou.oss.aliyuncs.com", "cn-hangzhou"),
]

# Stores that do not belong to AWS. Some run on machines and behind load balancers of AWS.
OTHER_HOSTS = [
    "",
    "localhost",
    "127.0.0.1",
    "::1",
    "minio.lan",
    "s3.example.org",
    "s3.eu-central-1.example.org",
    "s3.eu-central-1.amazonaws.com.example.org",
    "s3.eu-central-1.notamazonaws.com",
    "amazonaws.com",
    "aliyuncs.com",
    "ec2-198-51-100-7.eu-west-1.compute.amazonaws.com",
    "minio-0123456789.eu-west-1.elb.amazonaws.com",
    "s3-minio-0123456789.eu-west-1.elb.amazonaws.com",
    "s3-minio-0123456789abcdef.elb.eu-west-1.amazonaws.com",
    "vpce-0a1b-2c3d.vpce-svc-4e5f.eu-west-1.vpce.amazonaws.com",
    "s3-website-eu-west-1.amazonaws.com",
    "s3-website.eu-central-1.amazonaws.com",
]

BUCKET_HOSTS = [
    ("recordings.s3.eu-central-1.amazonaws.com", "recordings", "eu-central-1", COM),
    (
        "robot.recordings.s3.dualstack.eu-central-1.amazonaws.com",
        "robot.recordings",
        "eu-central-1",
        COM,
    ),
    ("s3-data.s3-eu-west-1.amazonaws.com", "s3-data", "eu-west-1", COM),
    ("recordings.s3.amazonaws.com", "recordings", "us-east-1", COM),
    ("recordings.s3-accelerate.amazonaws.com", "recordings", "us-east-1", COM),
    (
        "recordings.bucket.vpce-1a-5e.s3.us-west-2.vpce.amazonaws.com",
        "recordings",
        "us-west-2",
        COM,
    ),
]


# The tests below cover what the host names tell.


@pytest.mark.parametrize(("host", "region", "domain"), AWS_HOSTS)
def test_a_host_of_aws_tells_its_region(host: str, region: str, domain: str) -> None:
    assert store_host(host) == StoreHost(region, virtual_hosted=True, aws_domain=domain)


@pytest.mark.parametrize(("host", "region"), OSS_HOSTS)
def test_a_host_of_alibaba_oss_tells_its_region(host: str, region: str) -> None:
    assert store_host(host) == StoreHost(region, virtual_hosted=True)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_any_other_host_has_the_first_region_and_the_bucket_in_the_path(host: str) -> None:
    assert store_host(host) == StoreHost("us-east-1", virtual_hosted=False)


@pytest.mark.parametrize(("host", "bucket", "region", "domain"), BUCKET_HOSTS)
def test_the_address_of_a_bucket_is_known_as_one(
    host: str, bucket: str, region: str, domain: str
) -> None:
    assert store_host(host) == StoreHost(
        region, virtual_hosted=True, bucket=bucket, aws_domain=domain
    )


def _hosts_in_the_sdk(service: str) -> Iterator[tuple[str, str]]:
    """Yield each host name of ``service`` that AWS's own SDK knows, with its region."""
    table = Path(botocore.__file__).parent / "data" / "endpoints.json"
    for partition in json.loads(table.read_text(encoding="utf-8"))["partitions"]:
        # The other partitions are networks of secret services. Robots do not reach them by these
        # names.
        if partition["partition"] not in {"aws", "aws-cn", "aws-us-gov", "aws-eusc"}:
            continue
        known: dict[str, Any] = partition["services"][service]
        usual = [partition["defaults"], *partition["defaults"]["variants"]]
        usual += known.get("defaults", {}).get("variants", [])
        for name, endpoint in known["endpoints"].items():
            region = endpoint.get("credentialScope", {}).get("region", name)
            if "hostname" not in endpoint and region == name:
                for form in usual:
                    suffix = form.get("dnsSuffix", partition["dnsSuffix"])
                    # S3 has no hosts below the domains that other services use for IPv6.
                    if service != "s3" or suffix == partition["dnsSuffix"]:
                        yield (
                            form["hostname"].format(
                                service=service, region=region, dnsSuffix=suffix
                            ),
                            region,
                        )
            for form in [endpoint, *endpoint.get("variants", [])]:
                if "hostname" in form:
                    yield form["hostname"], region


def test_all_hosts_that_the_sdk_of_aws_knows_tell_their_region() -> None:
    hosts = dict(_hosts_in_the_sdk("s3"))
    assert len(hosts) > 100
    assert {host: store_host(host).region for host in hosts} == hosts
    assert all(store_host(host).aws_domain and not store_host(host).bucket for host in hosts)


def test_all_token_services_that_the_sdk_of_aws_knows_tell_their_region() -> None:
    hosts = dict(_hosts_in_the_sdk("sts"))
    assert len(hosts) > 100
    assert {host: token_service_region(host) for host in hosts} == hosts


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("sts.amazonaws.com", "us-east-1"),
        ("sts.eu-west-1.amazonaws.com", "eu-west-1"),
        ("sts-fips.us-west-2.amazonaws.com", "us-west-2"),
        ("sts.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("vpce-1a2b3c4d-5e6f.sts.eu-central-1.vpce.amazonaws.com", "eu-central-1"),
        ("sts.eu-west-1.api.aws", "eu-west-1"),
        ("s3.eu-west-1.amazonaws.com", ""),
        ("sts.example.org", ""),
        ("127.0.0.1", ""),
    ],
)
def test_a_token_service_of_aws_tells_its_region(host: str, region: str) -> None:
    assert token_service_region(host) == region


# The tests below cover what leaves the robot.

# Names in a certificate have small letters and no dot at their end.
WIRE_HOSTS = [
    (host, region) for host, region, _ in AWS_HOSTS if host == host.lower().removesuffix(".")
]
WIRE_HOSTS += [
    *OSS_HOSTS,
    ("vpce-0a1b-2c3d.vpce-svc-4e5f.eu-west-1.vpce.amazonaws.com", "us-east-1"),
]


def _send(
    host: str,
    folder: Path,
    patch: pytest.MonkeyPatch,
    *,
    region: str = "",
    bucket: str = "recordings",
    addressing: Literal["auto", "path", "virtual"],
    expected: str,
) -> tuple[str, str]:
    """Begin an upload at ``host``, and check that the request went to the host ``expected``.

    Returns:
        The request's target, and the region it is signed for.
    """
    session = replace(session_at(f"https://{host}", region), bucket=bucket)
    with every_name_leads_to_one_server(expected, folder, patch) as internet:
        internet.oracle.say = lambda _request: ScriptedAnswer(
            200, XML, b"<R><UploadId>m</UploadId></R>"
        )
        with closing(
            MinioStore(clock=RealClock(), ca_file=str(internet.ca_file), addressing=addressing)
        ) as store:
            target = store.at(session, lambda: LEASE)
            # The certificate is only for the expected host. With any other host, the comparison of
            # names fails first.
            try:
                target.begin()
            finally:
                assert internet.resolved == [expected]
        (request,) = internet.oracle.seen
        assert request.headers["host"] == expected
        return request.path, signed_region(request, LEASE.secret_access_key)


@pytest.mark.parametrize(("host", "region"), WIRE_HOSTS)
def test_a_request_in_path_style_goes_to_the_configured_host_and_is_signed_for_its_region(
    host: str, region: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = _send(host, tmp_path, monkeypatch, addressing="path", expected=host)
    assert sent == ("/recordings/key?uploads=", region)


@pytest.mark.parametrize(("host", "region"), WIRE_HOSTS)
def test_a_request_in_virtual_host_style_goes_to_the_bucket_at_the_configured_host(
    host: str, region: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = _send(host, tmp_path, monkeypatch, addressing="virtual", expected=f"recordings.{host}")
    assert sent == ("/key?uploads=", region)


@pytest.mark.parametrize(
    ("host", "expected", "path"),
    [
        (
            "s3.eu-central-1.amazonaws.com",
            "recordings.s3.eu-central-1.amazonaws.com",
            "/key?uploads=",
        ),
        (
            "s3.oss-cn-hangzhou.aliyuncs.com",
            "recordings.s3.oss-cn-hangzhou.aliyuncs.com",
            "/key?uploads=",
        ),
        ("s3.example.org", "s3.example.org", "/recordings/key?uploads="),
    ],
)
def test_each_store_is_addressed_as_it_wants_where_nobody_says(
    host: str, expected: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _send(host, tmp_path, monkeypatch, addressing="auto", expected=expected)[0] == path


@pytest.mark.parametrize(
    "host", ["s3.eu-central-1.amazonaws.com", "s3.amazonaws.com", "s3.oss-cn-x.aliyuncs.com"]
)
def test_a_region_that_is_named_is_signed_for_and_changes_no_host(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = _send(host, tmp_path, monkeypatch, region="ap-south-1", addressing="path", expected=host)
    assert sent == ("/recordings/key?uploads=", "ap-south-1")


def test_a_bucket_with_dots_stays_in_the_path_because_no_certificate_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = "s3.eu-central-1.amazonaws.com"
    sent = _send(
        host, tmp_path, monkeypatch, bucket="robot.recordings", addressing="auto", expected=host
    )
    assert sent == ("/robot.recordings/key?uploads=", "eu-central-1")


@pytest.mark.parametrize(("host", "bucket", "_region", "_domain"), BUCKET_HOSTS)
def test_an_endpoint_that_names_a_bucket_is_refused_with_the_reason(
    host: str, bucket: str, _region: str, _domain: str
) -> None:
    with (
        closing(MinioStore(clock=RealClock())) as store,
        pytest.raises(CloudError, match=f"begins with the bucket {bucket}:") as raised,
    ):
        store.at(session_at(f"https://{host}", ""), lambda: LEASE)
    assert judge(raised.value).kind == "blocked"
