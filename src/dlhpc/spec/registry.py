"""Where finished models go."""

from __future__ import annotations

from pathlib import Path

from dlhpc.spec.base import Name, Spec
from dlhpc.spec.location import Location


class RegistrySpec(Spec):
    """Publication of the trained model."""

    path: Location = "registry"
    """Folder of the registry, or its URL: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix."""

    publish: bool = True
    """Publish the best weights when the run ends."""

    name: Name | None = None
    """Name to publish under; the run's name when absent."""

    alias: Name | None = None
    """Alias to set on the new version, such as `production`."""

    sign_with: Path | None = None
    """File with a private key (PEM): what is published is signed with it. DLHPC_KEY_PASSPHRASE in the environment is
    its passphrase."""
