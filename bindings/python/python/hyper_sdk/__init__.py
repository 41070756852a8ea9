"""Build, store, serve and move OCI container images, without a daemon.

>>> import hyper_sdk
>>> hyper = hyper_sdk.Hyper("/tmp/hyper-example")
>>> hyper
Hyper(root='/tmp/hyper-example')

`Hyper` blocks, `AsyncHyper` returns awaitables; both have the same methods. `Registry` serves images over HTTP from
this process. Everything that fails raises a `HyperError`, by kind.
"""

from . import errors
from ._native import AsyncHyper, Hyper, Registry, __version__
from .errors import *  # noqa: F403
from .results import BuildResult, Image, ImageDetails, Step, Transferred

__all__ = [
    "AsyncHyper",
    "BuildResult",
    "Hyper",
    "Image",
    "ImageDetails",
    "Registry",
    "Step",
    "Transferred",
    "__version__",
    *errors.__all__,
]
