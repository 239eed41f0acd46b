"""MinIO's credential providers → leases: where the keys to a bucket come from when no gateway issues them."""

from __future__ import annotations

import configparser
import os
import stat
from collections.abc import Callable, Mapping
from datetime import timezone
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit
from xml.etree import ElementTree as ET

from minio.credentials.providers import (
    AssumeRoleProvider,
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
    MinioClientConfigProvider,
    Provider,
    WebIdentityProvider,
)
from urllib3.exceptions import HTTPError

from agent.adapters.store.client import RefusedResponseError, StoreTime, connections_of
from agent.adapters.store.regions import store_host, token_service_region
from agent.adapters.store.responses import cut, refused
from agent.model.errors import CloudError
from agent.model.file_permissions import exposure
from agent.model.ports import Clock
from agent.model.unforeseen import foreign
from agent.model.values import CredentialLease

Source = Literal["env", "file", "assume-role", "web-identity", "instance"]

_CALL = "StorageKeys"
_SESSION_NAME = "keystone-agent"
_AWS_FILE = "~/.aws/credentials"
_REMEMBERED = 100  # secrets that error texts are searched for
# What the providers raise when an answer or a file is not what they expect. Their texts may quote it.
# An XML answer with an encoding that Python does not know is a LookupError.
_UNFIT = (ValueError, LookupError, TypeError, AttributeError, configparser.Error, ET.ParseError)


class ProviderKeys:
    """Implements ``ports.StorageKeys``. Keeps nothing: each lease is fetched or read anew."""

    def __init__(
        self,
        source: Source,
        *,
        clock: Clock,
        hide: Callable[..., None],
        endpoint: str,
        region: str = "",
        credentials_file: Path | None = None,
        profile: str = "",
        sts_endpoint: str = "",
        role_arn: str = "",
        external_id: str = "",
        web_identity_token_file: Path | None = None,
        ca_file: str = "",
        proxy: str = "",
    ) -> None:
        """Fetch nothing yet.

        Args:
            source: Which of the library's providers.
            clock: Judges nothing here; the connections learn from it.
            hide: Told each secret when it arrives; ``lasting=True`` for those that live long.
            endpoint: Of the store.
            region: Of the store, "" for the one that the endpoint tells.
            credentials_file: In AWS's format, or mc's where it ends with ``.json``; None for ~/.aws/credentials.
            profile: In that file, or the alias; "" for the usual one.
            sts_endpoint: Of the token service; "" for that of the region with AWS, else the store.
            role_arn: The role, where the token service wants one.
            external_id: Likewise.
            web_identity_token_file: Holds the token that somebody else keeps fresh.
            ca_file: Trusted instead of the system's authorities.
            proxy: URL of an HTTP proxy; an instance's own service is never asked through it.

        Raises:
            OSError: ``ca_file`` can't be read.
        """
        self._source = source
        self._hide = hide
        self._file = credentials_file
        self._profile = profile
        region = region or store_host(_url(endpoint).hostname or "").region
        self._sts = _url(sts_endpoint).geturl() if sts_endpoint else _sts_of(endpoint, region)
        self._sts_region = token_service_region(_url(self._sts).hostname or "") or region
        self._role_arn = role_arn
        self._external_id = external_id
        self._token_file = web_identity_token_file
        time = StoreTime(clock)
        self._connections = connections_of(
            time, ca_file, "" if source == "instance" else proxy, timeout=30.0
        )
        self._secrets: tuple[str, ...] = ()  # the latest first

    @foreign(_CALL)
    def lease(self) -> CredentialLease:
        """Keys of this moment."""
        try:
            found = self._provider().retrieve()
        except RefusedResponseError as refusal:
            raise refused(
                _CALL,
                refusal.answer,
                self._without_secrets,
                skew=refusal.skew,
                server_time=refusal.server_time,
            ) from None
        except _UNFIT:
            raise CloudError(
                _CALL, "storage_keys", f"bucket.credentials = {self._source} gives none"
            ) from None
        except (HTTPError, OSError) as error:
            raise cut(_CALL, error) from None  # the request that it quotes may hold a token
        self._keep_secret(
            found.access_key,
            found.secret_key,
            *([found.session_token] if found.session_token else []),
        )
        ends = (
            found.expiration.replace(tzinfo=timezone.utc).timestamp()
            if found.expiration
            else float("inf")
        )
        return CredentialLease(found.access_key, found.secret_key, found.session_token or "", ends)

    def stamp(self) -> object:
        """Something that changes whenever the file of keys does, or the right to read it; None without one."""
        if self._file is None:
            return None
        try:
            state = self._file.stat()
        except OSError:
            return self._file, None
        return (
            self._file,
            state.st_dev,
            state.st_ino,
            state.st_size,
            state.st_mtime_ns,
            state.st_ctime_ns,
        )

    def _provider(self) -> Provider:
        makers: Mapping[Source, Callable[[], Provider]] = {
            "env": lambda: ChainedProvider([EnvAWSProvider(), EnvMinioProvider()]),
            "file": self._from_file,
            "assume-role": self._assuming_role,
            "web-identity": lambda: WebIdentityProvider(
                jwt_provider_func=self._token,
                sts_endpoint=self._sts,
                role_arn=self._role_arn or None,
                role_session_name=_SESSION_NAME,
                http_client=self._connections,
            ),
            "instance": lambda: IamAwsProvider(http_client=self._connections),
        }
        return makers[self._source]()

    def _from_file(self) -> Provider:
        file = (
            self._file
            or Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or _AWS_FILE).expanduser()
        )
        self._check(file)
        kind = MinioClientConfigProvider if file.suffix == ".json" else AWSConfigProvider
        return kind(str(file), self._profile or None)

    def _assuming_role(self) -> Provider:
        """The user's own keys come from the file where one is named, else from the environment."""
        own = (
            self._from_file()
            if self._file
            else ChainedProvider([EnvAWSProvider(), EnvMinioProvider()])
        )
        user = own.retrieve()
        self._keep_secret(user.access_key, user.secret_key, lasting=True)
        return AssumeRoleProvider(
            sts_endpoint=self._sts,
            access_key=user.access_key,
            secret_key=user.secret_key,
            region=self._sts_region,
            role_arn=self._role_arn or None,
            role_session_name=_SESSION_NAME,
            external_id=self._external_id or None,
            http_client=self._connections,
        )

    def _token(self) -> dict[str, str]:
        file = self._token_file or Path(os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE", ""))
        self._check(file)
        token = file.read_text(encoding="utf-8").strip()
        self._keep_secret(token)
        return {"access_token": token, "expires_in": "0"}

    def _check(self, file: Path) -> None:
        try:
            status = file.stat()
        except OSError as error:
            raise CloudError(_CALL, "storage_keys", f"{file}: {error.strerror}") from None
        # A named pipe would keep the caller waiting for a writer.
        why = exposure(file, status) if stat.S_ISREG(status.st_mode) else "is no regular file"
        if why:
            raise CloudError(_CALL, "storage_keys", f"{file} {why}")

    def _keep_secret(self, *secrets: str, lasting: bool = False) -> None:
        self._secrets = (*dict.fromkeys((*secrets, *self._secrets)),)[:_REMEMBERED]
        self._hide(*secrets, lasting=lasting)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _sts_of(endpoint: str, region: str) -> str:
    """Return the token service of a store: AWS has one in each region, others answer for it themselves."""
    url = _url(endpoint)
    domain = store_host(url.hostname or "").aws_domain
    return f"https://sts.{region}.{domain}" if domain else f"{url.scheme}://{url.netloc}"


def _url(endpoint: str) -> SplitResult:
    """Return the parts of an endpoint, which is https where it does not say."""
    return urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
