"""Versions in MLflow: a tracking server keeps the files, and what it sends is hashed here.

    name          registered model
    label         version number that MLflow gives: after a deletion there it has gaps, or gives the last one again
    alias         alias of the registered model, without a history
    tags          tags of the model version; those of dlhpc begin with `dlhpc.`
    digest        the tag `dlhpc.digest`
    manifest      `model/manifest.json`, an artifact of a run of its own, and beside it the files
    metrics, run  metrics and parameters of that run, for MLflow's own pages

The model version is created last, with its tags, in one step: what an interrupted publication leaves is a run that no
version names. A reader believes the tag and nothing else: the manifest has to have that digest, and each file its own.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

from dlhpc.errors import DlhpcError, IntegrityError, NotFoundError, UsageError
from dlhpc.registry import tagging
from dlhpc.registry.manifest import Manifest, parse_manifest, sha256
from dlhpc.registry.progress import Progress, quiet
from dlhpc.registry.reader import Version
from dlhpc.registry.refs import NAME, AliasRef, DigestRef, LabelRef, NewestRef, check_name, parse_ref
from dlhpc.registry.stores import mlflow_runs
from dlhpc.registry.stores.mlflow_rest import AbsentError, MlflowServer, TakenError, tag_list, tags_of
from dlhpc.registry.stores.mlflow_runs import DIGEST_TAG

SCHEME = "mlflow+"
"""Before the server's address: `mlflow+http://127.0.0.1:5000`."""
MANIFEST_FILE = "manifest.json"
FOLDER = "model"
_OWN = "dlhpc."
_NOTE = "dlhpc.note."
PUBLISHER_TAG = "dlhpc.published_by"
RUN_TAG = "dlhpc.run"
_LARGEST_MANIFEST = 2**26
_WRITERS = 24
"""How often a version is asked for while other writers take the number that MLflow had in mind."""


class MlflowStore:
    """The versions that a tracking server holds. Making one asks nothing of the server."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._server = MlflowServer(location.removeprefix(SCHEME))

    def names(self) -> tuple[str, ...]:
        """Every name with at least one version that dlhpc published, sorted."""
        return tuple(sorted({row["name"] for row in self._published()}))

    def list(self, name: str | None = None) -> tuple[Version, ...]:
        """The newest version of every name; or every version of one name, oldest first.

        Model versions that something else registered are left out.
        """
        if name is None:
            rows = sorted(self._published(), key=_number)
            newest = {row["name"]: row for row in rows}
            return tuple(self._version(newest[name], self._aliases(name)) for name in sorted(newest))
        check_name(name)
        aliases = self._aliases(name)
        rows = sorted(self._published(f"name = '{name}'"), key=_number)
        return tuple(self._version(row, aliases) for row in rows)

    def labels(self, digest: str) -> tuple[Version, ...]:
        """Every label of a version, over all names."""
        rows = sorted(self._published(f"{_tag(DIGEST_TAG)} = '{digest}'"), key=lambda row: (row["name"], _number(row)))
        return tuple(self._version(row, self._aliases(row["name"])) for row in rows)

    def resolve(self, ref: str) -> str:
        """The digest that a reference stands for, as its tag says; `read` verifies it."""
        return self._digest(self._row(ref))

    def read(self, ref: str, *, progress: Progress = quiet) -> tuple[bytes, dict[str, bytes]]:
        """The verified bytes of a version: its manifest, and its files by name.

        Raises IntegrityError, naming the file, when what the server sends is not what was published.
        """
        *others, last = self._rows(ref)
        for row in others:
            with suppress(IntegrityError):
                return self._read(row, self._digest(row), progress)
        return self._read(last, self._digest(last), progress)

    def manifest_bytes(self, ref: str) -> bytes:
        """The verified bytes of a version's manifest."""
        row = self._row(ref)
        return self._manifest(row, self._digest(row))[0]

    def tags(self, ref: str) -> dict[str, str]:
        """The tags of a version, without those that dlhpc keeps for itself."""
        return {key: value for key, value in tags_of(self._row(ref)).items() if not key.startswith(_OWN)}

    def tag(self, ref: str, key: str, value: str, *, note: str = "") -> None:
        """Set a tag of a version, under all its names; a note is kept as another tag."""
        tagging.check_key(key)
        if key.startswith(_OWN):
            raise UsageError(f"{key!r}: tags that begin with {_OWN!r} are dlhpc's own in MLflow: choose another name")
        for row in self._published(f"{_tag(DIGEST_TAG)} = '{self.resolve(ref)}'"):
            self._set_tags(row, {key: value, **({f"{_NOTE}tag.{key}": note} if note else {})})

    def publish_bytes(
        self,
        manifest: bytes,
        files: Mapping[str, bytes],
        name: str,
        *,
        alias: str | None = None,
        note: str = "",
        run: str | None = None,
        progress: Progress = quiet,
    ) -> Version:
        """Make a version the next one of `name`; if the name holds it already, give that one, mended if damaged.

        `note` becomes the description of a new version in MLflow. Raises UsageError on a bad name, IntegrityError when
        the files are not those of the manifest, DlhpcError when the server refuses or does not answer.
        """
        check_name(name)
        if alias is not None:
            check_name(alias, "alias")
        parsed = parse_manifest(manifest, MANIFEST_FILE)
        _check_files(parsed, files)
        digest = sha256(manifest)
        contents = {**{each: files[each] for each in parsed.files}, MANIFEST_FILE: manifest}
        row = self._holding(name, digest)
        if row is None:
            row = self._create(name, digest, parsed, contents, note, run, progress)
        else:
            self._mend(row, digest, contents, progress)
        if alias is not None:
            self._move(name, alias, row, note)
        return self._version(row, self._aliases(name))

    def set_alias(self, name: str, alias: str, ref: str, *, note: str = "") -> None:
        """Let `name`@`alias` stand for a version of that name.

        MLflow keeps no history of aliases; the note is kept as a tag of the version.
        """
        check_name(name)
        check_name(alias, "alias")
        row = self._row(ref)
        if row["name"] != name:
            raise UsageError(f"{ref} is not a version of {name!r}, so {name}@{alias} cannot stand for it")
        self._digest(row)
        self._move(name, alias, row, note)

    def _create(
        self,
        name: str,
        digest: str,
        manifest: Manifest,
        files: Mapping[str, bytes],
        note: str,
        run: str | None,
        progress: Progress,
    ) -> dict[str, Any]:
        """Files, then the version; of two writers of one version the later gives way to the earlier."""
        info = mlflow_runs.start(self._server, name, digest, manifest)
        run_id, source = info["run_id"], f"{info['artifact_uri']}/{FOLDER}"
        try:
            self._upload(source, files, progress)
            with suppress(TakenError):
                self._server.post("registered-models/create", name=name)
            mlflow_runs.finish(self._server, run_id)
        except BaseException:
            with suppress(DlhpcError):
                mlflow_runs.remove(self._server, run_id)
            raise
        tags = {DIGEST_TAG: digest, PUBLISHER_TAG: mlflow_runs.publisher(), **({RUN_TAG: run} if run else {})}
        self._server.post(
            "model-versions/create",
            attempts=_WRITERS,
            name=name,
            source=source,
            run_id=run_id,
            description=note,
            tags=tag_list(tags),
        )
        row = self._holding(name, digest)
        if row is None:
            raise DlhpcError(f"{self.location}: the server created a version of {name!r} and does not list it")
        for mine in self._published(f"run_id = '{run_id}'"):
            if _number(mine) != _number(row):
                self._server.delete("model-versions/delete", name=name, version=mine["version"])
        if row["run_id"] != run_id:
            mlflow_runs.remove(self._server, run_id)
        return row

    def _mend(self, row: Mapping[str, Any], digest: str, files: Mapping[str, bytes], progress: Progress) -> None:
        try:
            self._read(row, digest, quiet)
        except IntegrityError:
            self._upload(row["source"], files, progress)

    def _upload(self, source: str, files: Mapping[str, bytes], progress: Progress) -> None:
        for name, content in files.items():
            progress(f"sending {name}", 0, len(content))
            self._server.upload(source, name, content)
            progress(f"sending {name}", len(content), len(content))

    def _move(self, name: str, alias: str, row: Mapping[str, Any], note: str) -> None:
        if note:
            self._set_tags(row, {f"{_NOTE}alias.{alias}": note})
        self._server.post("registered-models/alias", name=name, alias=alias, version=row["version"])

    def _set_tags(self, row: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            fields = {"name": row["name"], "version": row["version"], "key": key, "value": value}
            self._server.post("model-versions/set-tag", **fields)

    def _read(self, row: Mapping[str, Any], digest: str, progress: Progress) -> tuple[bytes, dict[str, bytes]]:
        content, manifest = self._manifest(row, digest)
        files = {}
        for name, entry in manifest.files.items():
            progress(f"fetching {name}", 0, entry.size)
            files[name] = self._file(row, name, entry.sha256, entry.size, exact=True)
            progress(f"fetching {name}", entry.size, entry.size)
        return content, files

    def _manifest(self, row: Mapping[str, Any], digest: str) -> tuple[bytes, Manifest]:
        content = self._file(row, MANIFEST_FILE, digest, _LARGEST_MANIFEST, exact=False)
        return content, parse_manifest(content, f"{MANIFEST_FILE} of {self._called(row)}")

    def _file(self, row: Mapping[str, Any], name: str, digest: str, size: int, *, exact: bool) -> bytes:
        """An artifact, hashed as it came; `size` is how long it must be, or may be at most."""
        what = f"{name} of {self._called(row)}"
        content = self._server.download(row["source"], name, size, what)
        restore = "restore it on the server, or publish the model again, which mends it"
        if len(content) > size or (exact and len(content) != size):
            came = f"more than {size}" if len(content) > size else str(len(content))
            raise IntegrityError(f"{what}: {came} bytes came, expected {size}: it is damaged; {restore}")
        actual = sha256(content)
        if actual != digest:
            raise IntegrityError(f"{what}: sha256 is {actual}, expected {digest}: it is damaged; {restore}")
        return content

    def _row(self, ref: str) -> dict[str, Any]:
        """The model version of a reference, as MLflow describes it; of a digest the first."""
        return self._rows(ref)[0]

    def _rows(self, ref: str) -> builtins.list[dict[str, Any]]:
        """The model versions of a reference: several where a digest has several labels, each with files of its own."""
        match parse_ref(ref):
            case DigestRef(prefix):
                rows = self._published(f"{_tag(DIGEST_TAG)} LIKE '{prefix}%'")
                found = sorted({self._digest(row) for row in rows})
                if not found:
                    raise NotFoundError(f"no version sha256:{prefix} in {self.location}")
                if len(found) > 1:
                    raise UsageError(f"sha256:{prefix} is the beginning of {', '.join(found)}: give more digits")
                return sorted(rows, key=lambda row: (row["name"], _number(row)))
            case NewestRef(name):
                return [self._newest(name)]
            case LabelRef(name, number):
                try:
                    found_row = self._server.get("model-versions/get", name=name, version=str(number))["model_version"]
                except AbsentError:
                    newest = self._newest(name)["version"]
                    raise NotFoundError(
                        f"{self.location}: {name} has no version {number}; its newest is {newest}"
                    ) from None
                return [dict(found_row)]
            case AliasRef(name, alias):
                aliases = self._aliases(name)
                if alias not in aliases:
                    there = f"it has: {', '.join(sorted(aliases))}" if aliases else "it has none"
                    raise NotFoundError(f"{self.location}: {name} has no alias {alias!r} ({there})")
                return self._rows(f"{name}:{aliases[alias]}")

    def _newest(self, name: str) -> dict[str, Any]:
        search: dict[str, str | int] = {"filter": f"name = '{name}'", "order_by": "version_number DESC"}
        found = self._server.get("model-versions/search", max_results=1, **search).get("model_versions", [])
        if not found:
            raise self._no_name(name)
        return dict(found[0])

    def _no_name(self, name: str) -> NotFoundError:
        names = self.names()
        near = get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has: {', '.join(names) or 'none'}"
        return NotFoundError(f"{self.location}: no model {name!r}; {hint}")

    def _holding(self, name: str, digest: str) -> dict[str, Any] | None:
        """The first version of the name with this digest."""
        rows = self._published(f"name = '{name}' AND {_tag(DIGEST_TAG)} = '{digest}'")
        return min(rows, key=_number, default=None)

    def _published(self, condition: str | None = None) -> builtins.list[dict[str, Any]]:
        """The model versions that dlhpc published and that fulfil the condition."""
        condition = condition or f"{_tag(DIGEST_TAG)} LIKE '%'"
        rows = self._server.pages("model-versions/search", "model_versions", filter=condition)
        return [row for row in rows if DIGEST_TAG in tags_of(row) and re.fullmatch(NAME, row["name"])]

    def _aliases(self, name: str) -> dict[str, int]:
        """Alias -> number of the version."""
        try:
            model = self._server.get("registered-models/get", name=name)["registered_model"]
        except AbsentError:
            raise self._no_name(name) from None
        return {each["alias"]: int(each["version"]) for each in model.get("aliases", [])}

    def _digest(self, row: Mapping[str, Any]) -> str:
        digest = tags_of(row).get(DIGEST_TAG)
        if digest is None:
            raise NotFoundError(
                f"{self._called(row)}: has no tag {DIGEST_TAG!r}: dlhpc did not publish it, so nothing says what its "
                f"files must be; versions of dlhpc: dlhpc registry list {row['name']} --registry {self.location}"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise IntegrityError(f"{self._called(row)}: its tag {DIGEST_TAG!r} is {digest!r}, expected 64 hex digits")
        return digest

    def _called(self, row: Mapping[str, Any]) -> str:
        return f"{row['name']}:{row['version']} in {self.location}"

    def _version(self, row: Mapping[str, Any], aliases: Mapping[str, int]) -> Version:
        tags = tags_of(row)
        moment = datetime.fromtimestamp(row["creation_timestamp"] / 1000, UTC).isoformat(timespec="microseconds")
        return Version(
            name=row["name"],
            number=_number(row),
            digest=self._digest(row),
            published_at=moment.replace("+00:00", "Z"),
            published_by=tags.get(PUBLISHER_TAG, ""),
            sequence=row["creation_timestamp"],
            run=tags.get(RUN_TAG),
            aliases=tuple(sorted(alias for alias, number in aliases.items() if number == _number(row))),
        )


def _check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    for name, entry in manifest.files.items():
        if name not in files or sha256(files[name]) != entry.sha256:
            raise IntegrityError(f"{name}: {'differs from' if name in files else 'missing beside'} the manifest")


def _tag(key: str) -> str:
    return f"tags.`{key}`"


def _number(row: Mapping[str, Any]) -> int:
    return int(row["version"])
