"""Sends requests about one key in one bucket.

The public methods of the library can't resume a multipart upload, so requests go by its private
``Minio._execute``. A test checks that the signature of that method stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast
from xml.etree import ElementTree as ET

import urllib3
from urllib3.exceptions import HTTPError

from agent.adapters.store.cancel_scope import CancelScope
from agent.adapters.store.client import LeaseProvider, RefusedResponseError, S3Client
from agent.adapters.store.part_body import PartBody
from agent.adapters.store.responses import connection_error, response_error, says_error
from agent.adapters.store.xml_documents import decoded, text_of, xml
from agent.model.errors import CloudError, GateClosedError
from agent.model.values import UploadSession

# The most pages of one list. 10,000 parts, which is S3's limit, are 10 pages.
_MAX_PAGES = 20


class ObjectRequests:
    """Sends requests about one key in one bucket, and lets no foreign error out.

    May be used from any thread.
    """

    def __init__(
        self,
        client: S3Client,
        keys: LeaseProvider,
        session: UploadSession,
        cancel_scope: CancelScope,
    ) -> None:
        """Make the sender; no request is sent.

        Args:
            client: Signs and sends the requests.
            keys: Takes keys out of error texts.
            session: Names the bucket and the key.
            cancel_scope: The scope of all requests.
        """
        self.session = session
        self.cancel_scope = cancel_scope
        self._client = client
        self._keys = keys

    def send(
        self,
        call: str,
        method: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: PartBody | bytes | None = None,
        *,
        in_bucket: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, and return its answer, which is a success.

        Where the store refuses the request's time, the request is repeated once with the store's.

        Args:
            call: The S3 operation, for error texts.
            method: The HTTP method.
            query: The parameters in the URL.
            headers: Headers besides those that each request has.
            body: The body, if there is one.
            in_bucket: Whether the request is about the bucket and not about the key.

        Raises:
            CloudError: There was no success.
            GateClosedError: The scope was cancelled.
            FileChangedError: The file does not have the bytes of ``body``.
        """
        return self._send(call, method, query, headers, body, in_bucket=in_bucket, may_repeat=True)

    def pages(
        self,
        call: str,
        query: Mapping[str, str],
        markers: Mapping[str, str],
        *,
        in_bucket: bool = False,
    ) -> Iterator[ET.Element]:
        """Yield the pages of a list.

        Args:
            call: The S3 operation.
            query: The parameters of the first page.
            markers: The parameters that ask for a further page, each with the element of the page
                before that has its value.
            in_bucket: Whether the list is the bucket's.

        Raises:
            CloudError: There was no success, or the list does not end.
            GateClosedError: The scope was cancelled.
        """
        position: dict[str, str] = {}
        for _ in range(_MAX_PAGES):
            answer = self.send(call, "GET", {**query, **position}, in_bucket=in_bucket)
            page = xml(answer, call)
            yield page
            following = _following(page, markers)
            if text_of(page, "IsTruncated").lower() != "true" or following in ({}, position):
                return
            position = following
        raise CloudError(call, "lying_server", "the store's list has no end")

    def close_idle(self, silent_since: float = math.inf) -> None:
        """Close idle connections that have had no answer since then, by the monotonic clock."""
        self._client.close_idle(silent_since)

    def _send(
        self,
        call: str,
        method: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None,
        body: PartBody | bytes | None,
        *,
        in_bucket: bool,
        may_repeat: bool,
    ) -> urllib3.BaseHTTPResponse:
        try:
            with self.cancel_scope.entered():
                answer = self._client._execute(  # noqa: SLF001 - see the top of the file
                    method,
                    self.session.bucket,
                    None if in_bucket else self.session.object_key,
                    # A PartBody is no bytes, but it has a length, and urllib3 can read it.
                    body=cast("bytes | None", body),
                    # The library adds its headers to this dictionary.
                    headers=dict(headers or {}),
                    query_params=dict(query),
                )
        except RefusedResponseError as refusal:
            error = response_error(
                call,
                refusal.answer,
                self._keys.hide,
                skew=refusal.skew,
                server_time=refusal.server_time,
            )
            if error.status >= 500:
                self.close_idle()
            if not (may_repeat and error.means("clock_skew") and refusal.server_time is not None):
                raise error from None
        except (HTTPError, OSError) as error:
            if self.cancel_scope.cancelled:
                raise GateClosedError("the upload was told to stop") from error
            raise connection_error(call, error) from error
        except ValueError:
            # The cause is left out, because its text quotes the header that could not be sent.
            raise CloudError(
                call, "lying_server", "no request can be made of these keys and this place"
            ) from None
        else:
            if says_error(answer):
                raise response_error(call, answer, self._keys.hide)
            return answer
        if isinstance(body, PartBody):
            body.seek(0)
        return self._send(call, method, query, headers, body, in_bucket=in_bucket, may_repeat=False)


def _following(page: ET.Element, markers: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that ask for the page after ``page``; empty where it names none."""
    following = {}
    for parameter, tag in markers.items():
        text = text_of(page, tag)
        if text:
            following[parameter] = decoded(page, text)
    return following
