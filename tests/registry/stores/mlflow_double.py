"""An HTTP server that speaks the part of MLflow's REST API which dlhpc uses.

Whether MLflow itself does the same is seen in tests/deploy/test_mlflow.py, where the tests of mlflow_promises.py run
against a real server; here they run in the default group.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
PAGE = 3
"""Items of a page at most, so that few versions are several pages."""


class RefusalError(Exception):
    """An error as MLflow tells it."""

    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.status = status


class Double(ThreadingHTTPServer):
    """What was published, in memory; artifacts in a folder."""

    daemon_threads = True

    def __init__(self, artifacts: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.artifacts = artifacts
        self.artifact_uri = "mlflow-artifacts:/{run}/artifacts"
        self.models: dict[str, dict[str, int]] = {}
        self.versions: dict[tuple[str, int], dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.authorization: str | None = None
        """What the header has to be, if anything."""
        self.forced: list[tuple[str, int, bytes]] = []
        """Replies to give instead to the next requests whose path has the text in it."""
        self.requests: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, action: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        found = getattr(self, f"{method}_{re.sub('[/-]', '_', action)}", None)
        if found is None:
            raise RefusalError("ENDPOINT_NOT_FOUND", 404)
        with self.lock:
            reply: dict[str, Any] = found(**fields) or {}
        return reply

    def post_registered_models_create(self, name: str) -> None:
        if name in self.models:
            raise RefusalError("RESOURCE_ALREADY_EXISTS")
        self.models[name] = {}

    def get_registered_models_get(self, name: str) -> dict[str, Any]:
        if name not in self.models:
            raise RefusalError("RESOURCE_DOES_NOT_EXIST", 404)
        aliases = [{"alias": alias, "version": str(number)} for alias, number in self.models[name].items()]
        return {"registered_model": {"name": name, "aliases": aliases}}

    def post_registered_models_alias(self, name: str, alias: str, version: str) -> None:
        self.get_model_versions_get(name, version)
        self.models[name][alias] = int(version)

    def post_experiments_create(self, name: str) -> dict[str, Any]:
        if name in self.experiments:
            raise RefusalError("RESOURCE_ALREADY_EXISTS")
        self.experiments[name] = {"experiment_id": str(len(self.experiments) + 1), "lifecycle_stage": "active"}
        return {"experiment_id": self.experiments[name]["experiment_id"]}

    def get_experiments_get_by_name(self, experiment_name: str) -> dict[str, Any]:
        return {"experiment": self.experiments[experiment_name]}

    def post_runs_create(self, **fields: Any) -> dict[str, Any]:
        run_id = f"run{len(self.runs) + 1}"
        self.runs[run_id] = {**fields, "status": "RUNNING", "params": [], "metrics": [], "deleted": False}
        return {"run": {"info": {"run_id": run_id, "artifact_uri": self.artifact_uri.format(run=run_id)}}}

    def post_runs_log_batch(self, run_id: str, params: list[Any], metrics: list[Any]) -> None:
        if len(params) > 100:
            raise RefusalError("INVALID_PARAMETER_VALUE")
        self.runs[run_id]["params"] += params
        self.runs[run_id]["metrics"] += metrics

    def post_runs_update(self, run_id: str, **fields: Any) -> None:
        self.runs[run_id].update(fields)

    def get_runs_get(self, run_id: str) -> dict[str, Any]:
        run = self.runs[run_id]
        data = {"params": run["params"], "metrics": run["metrics"]}
        info = {"run_name": run["run_name"], "status": run["status"], "experiment_id": run["experiment_id"]}
        return {"run": {"info": info, "data": data}}

    def post_runs_delete(self, run_id: str) -> None:
        self.runs[run_id]["deleted"] = True

    def post_model_versions_create(self, name: str, source: str, **fields: Any) -> dict[str, Any]:
        if name not in self.models:
            raise RefusalError("RESOURCE_DOES_NOT_EXIST", 404)
        number = max((taken for model, taken in self.versions if model == name), default=0) + 1
        row = {"name": name, "version": str(number), "source": source, "creation_timestamp": 1000 * number, **fields}
        self.versions[name, number] = row
        return {"model_version": row}

    def get_model_versions_get(self, name: str, version: str) -> dict[str, Any]:
        if (name, int(version)) not in self.versions:
            raise RefusalError("RESOURCE_DOES_NOT_EXIST", 404)
        return {"model_version": self.versions[name, int(version)]}

    def get_model_versions_search(
        self, filter: str, max_results: str, order_by: str = "", page_token: str = "0"
    ) -> dict[str, Any]:
        rows = [row for row in self.versions.values() if all(fulfils(row, each) for each in filter.split(" AND "))]
        if order_by == "version_number DESC":
            rows.sort(key=lambda row: -int(row["version"]))
        first, last = int(page_token), int(page_token) + min(int(max_results), PAGE)
        return {"model_versions": rows[first:last], "next_page_token": str(last) if last < len(rows) else ""}

    def post_model_versions_set_tag(self, name: str, version: str, key: str, value: str) -> None:
        row = self.versions[name, int(version)]
        row["tags"] = [tag for tag in row["tags"] if tag["key"] != key] + [{"key": key, "value": value}]

    def delete_model_versions_delete(self, name: str, version: str) -> None:
        del self.versions[name, int(version)]


def fulfils(row: dict[str, Any], condition: str) -> bool:
    """Whether a version fulfils one condition of a search, such as name = 'pets' or tags.`k` LIKE 'v%'."""
    found = re.fullmatch(r"(?:tags\.`(?P<tag>[^`]+)`|(?P<key>\w+)) (?P<operator>=|LIKE) '(?P<value>[^']*)'", condition)
    assert found is not None, condition
    tags = {tag["key"]: tag["value"] for tag in row.get("tags", [])}
    actual = tags.get(found["tag"]) if found["tag"] else row.get(found["key"])
    if found["operator"] == "LIKE":
        return actual is not None and str(actual).startswith(found["value"].rstrip("%"))
    return bool(actual == found["value"])


class Handler(BaseHTTPRequestHandler):
    """Requests, one method for all."""

    server: Double
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        method, parts = self.command.lower(), urlsplit(self.path)
        self.server.requests.append(f"{self.command} {parts.path}")
        for index, (text, status, body) in enumerate(self.server.forced):
            if text in parts.path:
                del self.server.forced[index]
                self.reply(status, body)
                return
        if self.server.authorization not in {None, self.headers.get("Authorization")}:
            self.reply(401, b"You are not authenticated.")
        elif parts.path.startswith(ARTIFACTS):
            self.artifact(unquote(parts.path.removeprefix(ARTIFACTS)), content)
        else:
            fields = dict(parse_qsl(parts.query)) if method == "get" else json.loads(content)
            try:
                reply = self.server.answer(method, parts.path.removeprefix(API), fields)
                self.reply(200, json.dumps(reply).encode())
            except RefusalError as refusal:
                self.reply(refusal.status, json.dumps({"error_code": str(refusal), "message": "no"}).encode())

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

    def artifact(self, name: str, content: bytes) -> None:
        path = self.server.artifacts / name
        if self.command == "PUT":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.reply(200, b"{}")
        elif path.is_file():
            self.reply(200, path.read_bytes())
        else:
            self.reply(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No such artifact"}')

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def running(folder: Path) -> Iterator[Double]:
    """A double that answers."""
    with Double(folder) as double:
        thread = threading.Thread(target=double.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield double
        double.shutdown()
        thread.join()
