"""The exceptions, one class for each kind of error of the SDK.

Related kinds have a common base: everything that does not exist is a `NotFoundError`, everything that is not well formed
an `InvalidError`. `HyperError.kind` is the exact kind. A kind that this file does not know becomes a `HyperError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .results import Diagnostic, _make as _make_result


class HyperError(Exception):
    """An operation failed. The text of the exception has all causes."""

    #: The stable name of the kind, such as `not_found`.
    kind: str = "internal"
    #: Whether the same call can succeed later.
    retryable: bool = False
    #: The operation that failed, when it has a name.
    op: str | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        #: Values that belong to the error, by name: paths, digests, references.
        self.context: dict[str, str] = {}
        #: The exit code of the command that failed: 128 plus the number of the signal when a signal ended it.
        self.exit_code: int | None = None
        #: The end of the output of the command that failed.
        self.output: str | None = None
        #: The step of the build that failed: `[2/5] RUN make`.
        self.step: str | None = None
        #: The host of the registry that was asked.
        self.host: str | None = None
        #: The HTTP status of the registry's response: 401.
        self.status: int | None = None
        #: The error code in the registry's response: `MANIFEST_UNKNOWN`.
        self.code: str | None = None
        #: The errors of the Dockerfile, with their places.
        self.diagnostics: tuple[Diagnostic, ...] = ()

    def __repr__(self) -> str:
        details = {
            "kind": self.kind,
            "exit_code": self.exit_code,
            "step": self.step,
            "host": self.host,
            "status": self.status,
        }
        shown = [f"{name}={value!r}" for name, value in details.items() if value is not None]
        return f"{type(self).__name__}({', '.join([repr(str(self)), *shown])})"


class InvalidError(HyperError):
    """An argument, a file or a message is not well formed."""


class NotFoundError(HyperError):
    """Something does not exist."""


class DigestInvalidError(InvalidError):
    """A digest is not well formed, or content does not match its digest."""


class SizeInvalidError(InvalidError):
    """A size differs from the announced one."""


class NameInvalidError(InvalidError):
    """A repository name is not well formed."""


class NameUnknownError(NotFoundError):
    """A repository does not exist."""


class BlobUnknownError(NotFoundError):
    """A blob is not in the repository."""


class ManifestUnknownError(NotFoundError):
    """A manifest is not in the repository, by tag or by digest."""


class ManifestInvalidError(InvalidError):
    """A manifest is not well formed, or has an unknown media type."""


class ManifestBlobUnknownError(InvalidError):
    """A manifest refers to a blob or a manifest that is not in its repository."""


class UploadUnknownError(NotFoundError):
    """An upload session does not exist, or has ended."""


class UploadInvalidError(InvalidError):
    """A chunk or a digest does not fit the state of its upload."""


class RangeInvalidError(InvalidError):
    """A range lies outside its content or arrives out of order."""


class ConflictError(HyperError):
    """Something exists already, or another process changed it."""


class UnauthorizedError(HyperError):
    """The credentials are missing or wrong."""


class DeniedError(HyperError):
    """The credentials do not permit the operation."""


class UnsupportedError(HyperError):
    """An operation, an option or a field is not supported; the message names it."""


class TooLargeError(HyperError):
    """Content is larger than a limit."""


class TooManyRequestsError(HyperError):
    """The registry limits requests: try again later."""


class UnavailableError(HyperError):
    """A server cannot be reached, or cannot answer now."""


class TimeoutError(HyperError):  # noqa: A001 - reached as hyper_sdk.TimeoutError
    """A server did not answer in time."""


class CancelledError(HyperError):
    """The work was cancelled."""


class CommandFailedError(HyperError):
    """A command of a build failed."""


class IoError(HyperError):
    """The operating system refused an operation on a file, a process or a socket."""


class StorageFullError(IoError):
    """A disk or a quota is full."""


class CorruptError(HyperError):
    """Stored data is damaged."""


class InternalError(HyperError):
    """Hyper has a bug."""


_KINDS: dict[str, type[HyperError]] = {
    "invalid": InvalidError,
    "digest_invalid": DigestInvalidError,
    "size_invalid": SizeInvalidError,
    "name_invalid": NameInvalidError,
    "name_unknown": NameUnknownError,
    "blob_unknown": BlobUnknownError,
    "manifest_unknown": ManifestUnknownError,
    "manifest_invalid": ManifestInvalidError,
    "manifest_blob_unknown": ManifestBlobUnknownError,
    "upload_unknown": UploadUnknownError,
    "upload_invalid": UploadInvalidError,
    "range_invalid": RangeInvalidError,
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "unauthorized": UnauthorizedError,
    "denied": DeniedError,
    "unsupported": UnsupportedError,
    "too_large": TooLargeError,
    "too_many_requests": TooManyRequestsError,
    "unavailable": UnavailableError,
    "timeout": TimeoutError,
    "cancelled": CancelledError,
    "command_failed": CommandFailedError,
    "io": IoError,
    "storage_full": StorageFullError,
    "corrupt": CorruptError,
    "internal": InternalError,
}


def _make(
    kind: str,
    message: str,
    retryable: bool,
    op: str | None,
    context: dict[str, str],
    details: Mapping[str, Any] | None = None,
) -> HyperError:
    """Makes the exception for an error of the SDK."""
    error = _KINDS.get(kind, HyperError)(message)
    error.kind = kind
    error.retryable = retryable
    error.op = op
    error.context = context
    for name, value in (details or {}).items():
        setattr(error, name, tuple(_make_result("Diagnostic", value)) if name == "diagnostics" else value)
    return error


__all__ = [
    "BlobUnknownError",
    "CancelledError",
    "CommandFailedError",
    "ConflictError",
    "CorruptError",
    "DeniedError",
    "DigestInvalidError",
    "HyperError",
    "InternalError",
    "InvalidError",
    "IoError",
    "ManifestBlobUnknownError",
    "ManifestInvalidError",
    "ManifestUnknownError",
    "NameInvalidError",
    "NameUnknownError",
    "NotFoundError",
    "RangeInvalidError",
    "SizeInvalidError",
    "StorageFullError",
    "TimeoutError",
    "TooLargeError",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedError",
    "UploadInvalidError",
    "UploadUnknownError",
]
