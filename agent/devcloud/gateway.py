"""The gRPC server of the embedded platform.

Offers the protocol's services, calls the platform's rules for each request, and answers errors in
the platform's form.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import grpc
from google.protobuf import any_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from agent.devcloud.platform import Platform
from agent.devcloud.platform_errors import PlatformError
from agent.devcloud.servers import LOOPBACK
from agent.pb import auth_pb2, common_pb2, data_gateway_pb2

LOG = logging.getLogger(__name__)
# The trailing metadata in which gRPC sends the details of an error.
_DETAILS_KEY = "grpc-status-details-bin"

# How an ErrorDetail is sent: in a google.rpc.Status, bare, or only as text of the message.
Details = Literal["wrapped", "raw", "none"]
Handler = Callable[[Any, grpc.ServicerContext], Any]


class GatewayServicer:
    """A running server for AuthService, DataGatewayService and DeviceInitService.

    Calls are answered by threads of its own. ``stop`` is called by the thread that made it.
    """

    def __init__(
        self,
        rules: Platform,
        *,
        address: str = LOOPBACK,
        port: int = 0,
        tls: Path | None = None,
        details: Details = "wrapped",
        threads: int = 8,
    ) -> None:
        """Start to listen.

        Args:
            rules: The platform that answers the calls.
            address: An address of this machine to listen on.
            port: The port to listen on; 0 lets the system choose.
            tls: A PEM file with the server's key and certificate chain.
            details: How an ErrorDetail is sent: ``wrapped`` in a google.rpc.Status, ``raw``, or
                ``none``, as the text of the message alone.
            threads: How many calls are answered at the same time.

        Raises:
            OSError: The port is taken.
        """
        self._rules = rules
        self._details = details
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gateway")
        # Without this option two gateways could listen on one port, and each would get some of
        # the calls.
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(
            [
                self._service(
                    auth_pb2, "AuthService", {"ExchangeCredential": rules.exchange_credential}
                ),
                self._service(
                    data_gateway_pb2,
                    "DeviceInitService",
                    {"InitDevice": rules.init_device, "ReinitDevice": rules.reinit_device},
                ),
                self._service(
                    data_gateway_pb2,
                    "DataGatewayService",
                    {
                        "CreateLogicalUpload": rules.create_logical_upload,
                        "GetUploadRecovery": rules.get_upload_recovery,
                        "ReissueUploadCredentials": rules.reissue_upload_credentials,
                        "AbortUpload": rules.abort_upload,
                        "CompleteUpload": rules.complete_upload,
                    },
                    bearer=True,
                ),
            ]
        )
        try:
            self.port = self._listen(f"{address}:{port}", tls)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}:{port}") from error
        self.url = f"{'https' if tls else 'http'}://{address}:{self.port}"
        self._server.start()
        LOG.info("gateway answers at %s", self.url, extra={"event": "gateway_started"})

    def stop(self) -> None:
        """Cut all calls and connections, and stop listening."""
        self._server.stop(grace=None).wait()
        self._pool.shutdown()

    def _listen(self, address: str, tls: Path | None) -> int:
        if tls is None:
            return int(self._server.add_insecure_port(address))
        pem = tls.read_bytes()
        return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([(pem, pem)])))

    def _service(
        self,
        module: Any,
        name: str,
        rpcs: Mapping[str, Callable[..., Any]],
        *,
        bearer: bool = False,
    ) -> grpc.GenericRpcHandler:
        service: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                method.name: grpc.unary_unary_rpc_method_handler(
                    functools.partial(self._answer, rpcs[method.name], bearer),
                    request_deserializer=GetMessageClass(method.input_type).FromString,
                    response_serializer=GetMessageClass(method.output_type).SerializeToString,
                )
                for method in service.methods
            },
        )

    def _answer(
        self, rpc: Callable[..., Any], bearer: bool, request: Any, context: grpc.ServicerContext
    ) -> Any:
        try:
            if not bearer:
                return rpc(request)
            metadata = dict(context.invocation_metadata())
            return rpc(request, self._rules.device_of(str(metadata.get("authorization", ""))))
        except PlatformError as error:
            LOG.info(
                "gateway refuses %s: %s",
                rpc.__name__,
                error.code,
                extra={"event": "gateway_refused"},
            )
            status = grpc.StatusCode[error.status]
            message = f"{error.code}: {error}"
            if self._details != "none":
                detail = common_pb2.ErrorDetail(code=error.code, message=str(error))
                raw = detail.SerializeToString()
                wrapped = _status(status.value[0], message, detail)
                context.set_trailing_metadata(
                    [(_DETAILS_KEY, raw if self._details == "raw" else wrapped)]
                )
            context.abort(status, message)


def _status(code: int, message: str, detail: common_pb2.ErrorDetail) -> bytes:
    """Return an encoded google.rpc.Status with these fields: 1 code, 2 message, 3 details.

    It is encoded by hand, because it would be the only use of the package that has this message.
    """
    packed = any_pb2.Any()
    packed.Pack(detail)
    return (
        b"\x08"
        + bytes([code])
        + _field(2, message.encode())
        + _field(3, packed.SerializeToString())
    )


def _field(number: int, content: bytes) -> bytes:
    """Return an encoded protobuf field of the length-delimited kind."""
    size, encoded = len(content), bytearray([number << 3 | 2])
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded) + content
