"""Where finished models go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dlhpc.spec.base import LICENCE_PATTERN, Name, Spec
from dlhpc.spec.location import Location

Licence = Annotated[str, Field(pattern=LICENCE_PATTERN)]
"""An SPDX expression: `MIT`, `Apache-2.0 OR MIT`, `LicenseRef-ours`."""


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

    licence: Licence | None = None
    """Licence of the model, as an SPDX expression such as `Apache-2.0`; it is part of the version."""

    card: Path | None = None
    """File with the model card (Markdown): kept with the version as model_card.md, and first in what is exported."""

    sign_with: Path | None = None
    """File with a private key (PEM): what is published is signed with it. DLHPC_KEY_PASSPHRASE in the environment is
    its passphrase."""
