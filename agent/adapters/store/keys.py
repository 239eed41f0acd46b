"""Where the keys to a bucket come from when no gateway issues them.

The keys come from the credential providers of MinIO's library.
"""

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
from agent.adapters.store.responses import connection_error, response_error
from agent.model.errors import CloudError
from agent.model.file_permissions import exposure
from agent.model.ports import Clock
from agent.model.unforeseen import foreign
from agent.model.values import CredentialLease

Source = Literal["env", "file", "assume-role", "web-identity", "instance"]

# The name of the call in errors.
_CALL = "StorageKeys"

# What the token service calls the session of a role.
_SESSION_NAME = "keystone-agent"

_DEFAULT_AWS_FILE = "~/.aws/credentials"

# How long a request for keys may take to connect, and how long without a byte of the answer.
_TIMEOUT_SECONDS = 30.0

# How many secrets are remembered, to keep them out of error texts.
_MAX_SECRETS = 100

# What the providers raise when an answer or a file is not what they expect. Their texts may quote
# the answer or the file. An XML answer with an encoding that Python does not know is a LookupError.
_UNFIT = (ValueError, LookupError, TypeError, AttributeError, configparser.Error, ET.ParseError)


class ProviderKeys:
    """Implements ``ports.StorageKeys`` with the providers of MinIO's library.

    No lease is kept: each one is fetched or read anew.

    May be used from any thread.
    """

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
        """Make the source of keys; no key is fetched.

        Args:
            source: Which of the library's providers to use.
            clock: The local clock; the connections compare it with the token service's.
            hide: Called with each secret when it arrives, to keep it out of the log. Secrets that
                live long come with ``lasting=True``.
            endpoint: The store's address.
            region: The store's region; "" for the one that the endpoint tells.
            credentials_file: A file in AWS's format, or in mc's where its name ends with ``.json``;
                None for ~/.aws/credentials.
            profile: The profile or alias in the file; "" for the usual one.
            sts_endpoint: The token service's address; "" for that of the region with AWS, and for
                the store itself elsewhere.
            role_arn: The role, where the token service wants one.
            external_id: The external id, where the role's owner wants one.
            web_identity_token_file: A file with a token that another program keeps valid.
            ca_file: Certificate authorities to trust instead of the system's; "" for the system's.
            proxy: URL of an HTTP proxy, or "". The metadata service of an instance is never reached
                through the proxy.

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
        self._connections = connections_of(
            StoreTime(clock),
            ca_file,
            "" if source == "instance" else proxy,
            timeout=_TIMEOUT_SECONDS,
        )
        # The secrets seen so far, the latest first.
        self._secrets: tuple[str, ...] = ()

    @foreign(_CALL)
    def lease(self) -> CredentialLease:
        """Return keys that are valid now.

        Raises:
            CloudError: The source has no keys ("storage_keys"), or the token service refused or did
                not answer.
        """
        try:
            found = self._provider().retrieve()
        except RefusedResponseError as refusal:
            raise response_error(
                _CALL,
                refusal.answer,
                self._without_secrets,
                skew=refusal.skew,
                server_time=refusal.server_time,
            ) from None
        except _UNFIT:
            raise CloudError(
                _CALL, "storage_keys", f"bucket.credentials = {self._source} gives no usable keys"
            ) from None
        except (HTTPError, OSError) as error:
            # The cause is left out, because it quotes the request, which may hold a token.
            raise connection_error(_CALL, error) from None
        self._keep_secret(
            found.access_key,
            found.secret_key,
            *([found.session_token] if found.session_token else []),
        )
        expires_at = float("inf")
        if found.expiration:
            expires_at = found.expiration.replace(tzinfo=timezone.utc).timestamp()
        return CredentialLease(
            found.access_key, found.secret_key, found.session_token or "", expires_at
        )

    def stamp(self) -> object:
        """Return a value that changes whenever the file of keys does, or the right to read it.

        The value is None where the keys come from no file.
        """
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
        """Return a new provider of the library, so that nothing is remembered."""
        makers: Mapping[Source, Callable[[], Provider]] = {
            "env": _from_environment,
            "file": self._from_file,
            "assume-role": self._assume_role,
            "web-identity": self._web_identity,
            "instance": self._instance,
        }
        return makers[self._source]()

    def _from_file(self) -> Provider:
        file = (
            self._file
            or Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or _DEFAULT_AWS_FILE).expanduser()
        )
        self._check_file(file)
        kind = MinioClientConfigProvider if file.suffix == ".json" else AWSConfigProvider
        return kind(str(file), self._profile or None)

    def _assume_role(self) -> Provider:
        """Return the provider for a role.

        The user's own keys come from the file where one is named, and else from the environment.
        """
        own_keys = self._from_file() if self._file else _from_environment()
        user = own_keys.retrieve()
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

    def _web_identity(self) -> Provider:
        return WebIdentityProvider(
            jwt_provider_func=self._token,
            sts_endpoint=self._sts,
            role_arn=self._role_arn or None,
            role_session_name=_SESSION_NAME,
            http_client=self._connections,
        )

    def _instance(self) -> Provider:
        return IamAwsProvider(http_client=self._connections)

    def _token(self) -> dict[str, str]:
        """Return the token from its file, in the form that the library wants."""
        file = self._token_file or Path(os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE", ""))
        self._check_file(file)
        token = file.read_text(encoding="utf-8").strip()
        self._keep_secret(token)
        return {"access_token": token, "expires_in": "0"}

    def _check_file(self, file: Path) -> None:
        """Raise CloudError where the file can't be used, or where other users could read it."""
        try:
            status = file.stat()
        except OSError as error:
            raise CloudError(_CALL, "storage_keys", f"{file}: {error.strerror}") from None
        # Opening a named pipe would wait for a program that writes to it.
        why = exposure(file, status) if stat.S_ISREG(status.st_mode) else "is no regular file"
        if why:
            raise CloudError(_CALL, "storage_keys", f"{file} {why}")

    def _keep_secret(self, *secrets: str, lasting: bool = False) -> None:
        self._secrets = (*dict.fromkeys((*secrets, *self._secrets)),)[:_MAX_SECRETS]
        self._hide(*secrets, lasting=lasting)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _from_environment() -> Provider:
    """Return the provider that reads the variables of AWS, and then those of MinIO."""
    return ChainedProvider([EnvAWSProvider(), EnvMinioProvider()])


def _sts_of(endpoint: str, region: str) -> str:
    """Return the address of a store's token service.

    AWS has one in each region. Other stores are their own token service.
    """
    url = _url(endpoint)
    domain = store_host(url.hostname or "").aws_domain
    return f"https://sts.{region}.{domain}" if domain else f"{url.scheme}://{url.netloc}"


def _url(endpoint: str) -> SplitResult:
    """Return the parts of an endpoint. An endpoint without a scheme is https."""
    return urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
