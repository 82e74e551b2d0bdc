"""How closely a server looks at what it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from dlhpc.spec.base import PositiveFloat, Spec

Verify = Literal["full", "cached", "fast"]


class VerificationSpec(Spec):
    """What has to be true of a version before it answers."""

    mode: Verify = "cached"
    """`full` hashes every byte that is loaded, in each replica. `cached` hashes it once per node and user, and keeps it
    in a private folder where the next replica finds it. `fast` looks at sizes only, and says so in the log: damaged
    or replaced weights go unnoticed."""

    require_signature: tuple[Path, ...] = ()
    """Files with public keys (PEM): what none of these keys has signed is not served. Empty asks for no signature."""

    cache_dir: Path | None = None
    """Folder of `cached`, writable for this user alone; when absent, what DLHPC_CACHE_DIR in the environment says, or
    else `dlhpc/verified` in the user's cache folder."""

    cache_gb: PositiveFloat = 20.0
    """Gigabytes that folder may hold; what was not used for longest goes."""

    @model_validator(mode="after")
    def _hashes_what_was_signed(self) -> Self:
        if self.mode == "fast" and self.require_signature:
            raise ValueError("a signature is of digests, which mode 'fast' does not compute: use 'cached' or 'full'")
        return self

    @property
    def cache_bytes(self) -> int:
        """Bytes the cache may hold."""
        return int(self.cache_gb * 1e9)
