"""What `--registry` takes: a folder, or the URL of an object store."""

from __future__ import annotations

from typing import Any

import click

from dlhpc.spec.location import check_location


class LocationType(click.ParamType[str]):
    """A registry's location, in one spelling."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The location as text; a usage error where it is none."""
        try:
            return check_location(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


LOCATION = LocationType()
HELP = "Registry: a folder, or s3://, gs://, az:// and bucket/prefix."
