"""What the host name of a store tells: its region, and how the store wants buckets to be named.

A request is signed for one region, and AWS refuses a signature for another one. The operator need
not name the region where the endpoint already does. A host that is in no table here belongs to a
store such as MinIO: it gets the region that S3 began with, and the bucket in the path.

A further provider is a further row of ``_STORES``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# The region to sign for where neither the operator nor the host name tells one.
DEFAULT_REGION = "us-east-1"

# The region that a host of AWS belongs to when its name has none, by the domain of the name.
_AWS_DEFAULT_REGIONS = {
    "amazonaws.com": "us-east-1",
    "amazonaws.com.cn": "cn-north-1",
    "amazonaws.eu": "eusc-de-east-1",
}

_BUCKET = r"(?:(?P<bucket>.+)\.)?"
_REGION = r"(?P<region>[a-z]{2,4}(?:-[a-z]+)+-[0-9]+)"
_AWS = r"(?P<aws_domain>amazonaws\.(?:com\.cn|com|eu))"


@dataclass(frozen=True, slots=True)
class StoreHost:
    """What the host name of an endpoint tells about its store.

    Attributes:
        region: The region to sign for where the operator names none.
        virtual_hosted: Whether the store wants the bucket in the host name, ``BUCKET.HOST``.
        bucket: The bucket that the host name begins with; "" where it names none. A name with a
            bucket is the address of that bucket and not of a store.
        aws_domain: The domain of AWS that the host belongs to; "" for all other stores.
    """

    region: str = DEFAULT_REGION
    virtual_hosted: bool = False
    bucket: str = ""
    aws_domain: str = ""


@dataclass(frozen=True, slots=True)
class _Form:
    """One form that the host names of a provider have.

    Attributes:
        pattern: Matches a whole host name in small letters. Its groups are "region", "bucket" and
            "aws_domain". A form without a region has the default region of its domain.
        virtual_hosted: As in ``StoreHost``.
    """

    pattern: str
    virtual_hosted: bool = True


_STORES = (
    # AWS, one region: s3.REGION, s3-fips.REGION, s3.dualstack.REGION, s3-fips.dualstack.REGION, and
    # the same for access points, whose names stand where a bucket's would.
    _Form(rf"{_BUCKET}s3(?:-accesspoint)?(?:-fips)?(?:\.dualstack)?\.{_REGION}\.{_AWS}"),
    # AWS, one region, the old form: s3-REGION, s3-fips-REGION.
    _Form(rf"{_BUCKET}s3(?:-fips)?-{_REGION}\.{_AWS}"),
    # AWS, an interface endpoint in a VPC: bucket.vpce-ID-ID.s3.REGION.vpce. The first label is the
    # word "bucket" and no bucket's name.
    _Form(
        rf"(?:{_BUCKET}(?:bucket|accesspoint)\.)?vpce-[a-z0-9-]+\.s3\.{_REGION}\.vpce\.{_AWS}",
    ),
    # AWS, no region in the name: the global endpoint, its oldest form, and transfer acceleration.
    _Form(rf"{_BUCKET}(?:s3|s3-external-1|s3-accelerate(?:\.dualstack)?)\.{_AWS}"),
    # Alibaba OSS: oss-REGION, s3.oss-REGION, and both with "-internal". Signed for is "oss-REGION".
    _Form(r"(?:s3\.)?(?P<region>[^.]+?)(?:-internal)?\.(?:[^.]+\.)*aliyuncs\.com"),
)

# The security token service of AWS: sts, sts.REGION, sts-fips.REGION, an interface endpoint in a
# VPC (vpce-ID-ID.sts.REGION.vpce), and the domains that AWS uses for IPv6.
_TOKEN_SERVICE = re.compile(
    rf"(?:vpce-[a-z0-9-]+\.)?sts(?:-fips)?(?:\.{_REGION})?(?:\.vpce)?"
    rf"\.(?:{_AWS}|api\.(?:aws|amazonwebservices\.(?:com\.cn|eu)))"
)


def store_host(host: str) -> StoreHost:
    """Return what ``host``, an endpoint's host name without a port, tells about its store."""
    for form in _STORES:
        found = re.fullmatch(form.pattern, _normalized(host))
        if found is not None:
            groups = found.groupdict(default="")
            aws_domain = groups.get("aws_domain", "")
            return StoreHost(
                region=groups.get("region") or _default_region(aws_domain),
                virtual_hosted=form.virtual_hosted,
                bucket=groups.get("bucket", ""),
                aws_domain=aws_domain,
            )
    return StoreHost()


def token_service_region(host: str) -> str:
    """Return the region that requests to a token service of AWS are signed for.

    A token service accepts only signatures for its own region, which need not be the bucket's.

    Args:
        host: The token service's host name, without a port.

    Returns:
        The region; "" where ``host`` is no token service of AWS.
    """
    found = _TOKEN_SERVICE.fullmatch(_normalized(host))
    if found is None:
        return ""
    return found["region"] or _default_region(found["aws_domain"] or "")


def _default_region(aws_domain: str) -> str:
    """Return the region of a host whose name has none."""
    return _AWS_DEFAULT_REGIONS.get(aws_domain, DEFAULT_REGION)


def _normalized(host: str) -> str:
    """Return the name in small letters, without the dot that may end a complete domain name."""
    return host.lower().removesuffix(".")
