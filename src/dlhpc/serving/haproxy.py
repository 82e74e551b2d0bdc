"""HAProxy as Ray Serve configures it, with corrections: it listens where the spec says and nowhere else, and its own
errors are problem documents.

Ray writes HAProxy's configuration and starts the binary that RAY_SERVE_HAPROXY_BINARY_PATH names. That is a script
made here: it edits the configuration, refuses to start when an edit did not take (a later Ray may write another one),
and becomes HAProxy.
"""

from __future__ import annotations

import math
import shlex
from http import HTTPStatus
from pathlib import Path
from typing import Final

from dlhpc.files import write_atomic
from dlhpc.serving.exchange import CLOSE_MARK, PEER
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import PROBLEM_TYPE, problem

LONGEST_S: Final = 24 * 3600
"""A replica that says nothing for so long has lost the request, even where there is no deadline."""
PID_FILE: Final = "haproxy.pid"

_PAGES: Final = {
    404: ("not_found", "there is nothing at this path"),
    502: (
        "replica_lost",
        "the replica that had this request went away: send it once more, and not again if that is lost too",
    ),
    503: ("unavailable", "no replica can take requests now: the model is being loaded, or the server stops"),
    504: ("deadline_exceeded", "the replica did not answer in time"),
}
"""Status that HAProxy means -> what the client is told. Its 400 and 408, to half a request, cannot be changed."""
QUIET_S: Final = 60
"""Where there is no deadline, a client that is to send something may be silent for so long."""
_OURS: Final = "{ path,url_dec -m beg / } !{ path,url_dec -m beg -i /-/ }"
"""Paths that may reach the application: those under /-/ are Ray's own, and some requests have none."""

_RULES: Final = (
    f"http-request set-header {PEER.decode()} %[src]",
    f"http-request deny deny_status 404 unless {_OURS}",
    # Ray's replicas decode these as text, and some change how they work: none is a client's business.
    "http-request del-header x-request-timeout-seconds",
    "http-request del-header x-request-disconnect-disabled",
    "http-request del-header ^x.session.id$ -m reg",
    "http-request del-header ^serve.multiplexed.model.id$ -m reg",
    "http-request del-header x-request-id if !{ req.fhdr(x-request-id) -m reg ^[!-~]{1,128}$ } or "
    "{ req.fhdr_cnt(x-request-id) gt 1 }",
    "http-request del-header upgrade",  # WebSocket is not spoken
)


def install(folder: Path, binary: str, spec: ServingSpec) -> Path:
    """Write error pages, edits and the script into `folder`; gives the script. `binary` is the real HAProxy.

    Ray must be told to listen on 127.0.0.1 and the spec's port; the edits make that the spec's host.
    """
    for status, (code, detail) in _PAGES.items():
        write_atomic(folder / f"{status}.http", _page(code, detail))
    (folder / "edits.sed").write_text(_edits(folder, spec))
    script = folder / "haproxy"
    script.write_text(_script(folder, binary, spec))
    script.chmod(0o700)
    return script


def _page(code: str, detail: str) -> bytes:
    document = problem(code, detail, "")
    body = document.model_dump_json(exclude_defaults=True).encode()
    status = HTTPStatus(document.status)
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"content-type: {PROBLEM_TYPE}",
        f"content-length: {len(body)}",
        *(["retry-after: 1"] if document.status == HTTPStatus.SERVICE_UNAVAILABLE else []),
        "connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _edits(folder: Path, spec: ServingSpec) -> str:
    """A sed program over Ray's configuration."""
    headers = f"    timeout http-request {spec.limits.header_timeout_s}s"
    most_s = math.ceil(spec.limits.deadline_s) + 5 if spec.limits.deadline_s is not None else LONGEST_S
    server = f"    timeout server {most_s}s"
    # Ray's is an hour: whoever leaves bodies unfinished, which nobody reads, would have every connection soon.
    client = f"    timeout client {most_s if spec.limits.deadline_s is not None else QUIET_S}s"
    timeouts = f"{headers}\\n{server}\\n{client}"
    pages = "\\n".join(f"    errorfile {status} {folder}/{status}.http" for status in _PAGES)
    mark = CLOSE_MARK.decode()
    request = "\\n".join(f"    {rule}" for rule in _RULES)
    closing = (
        f"    http-after-response set-header connection close if {{ res.hdr({mark}) -m found }}\\n"
        f"    http-after-response del-header {mark}"
    )
    return "\n".join(
        [
            # Ray's own exporter and statistics page: unused, and open to every interface.
            rf"s|^ *bind :[0-9]*$|    bind unix@{folder}/exporter.sock mode 600|",
            rf"s|^ *bind \*:[0-9]*$|    bind unix@{folder}/statistics.sock mode 600|",
            rf"s|^ *bind 127\.0\.0\.1:{spec.port}$|    bind {_address(spec.host, spec.port)}|",
            r"s|mode 666 level admin|mode 600 level admin|",
            r"/^ *errorfile /d",
            r"/^ *timeout client /d",
            # Each request would be logged to a syslog that is not there; errors are enough, on stderr.
            r"s|^ *log [0-9].*|    log stderr format raw local0 notice|",
            rf"s|^ *option httplog$|    option httplog\n    option dontlog-normal\n{timeouts}\n{pages}|",
            rf"s|^frontend http_frontend$|&\n{request}\n{closing}|",
            # While no replica lives, Ray's own proxy would let requests wait for one instead of refusing them.
            r"/^ *server SERVE_PROXY_ACTOR-fallback/d",
            # Before the first replica is there, and after the last, every path is unavailable rather than unknown.
            r"s|^ *http-request return status 404 .*|    http-request deny deny_status 503|",
            "",
        ]
    )


def _script(folder: Path, binary: str, spec: ServingSpec) -> str:
    wanted = [
        f"bind {_address(spec.host, spec.port)}",
        f"timeout http-request {spec.limits.header_timeout_s}s",
        f"errorfile 503 {folder}/503.http",
        "http-request deny deny_status 503",
        *_RULES,
    ]
    checks = "\n".join(f'grep -qF {shlex.quote(line)} "$3" || fail {shlex.quote(line)}' for line in wanted)
    return f"""#!/bin/sh
# Correct the configuration that Ray Serve wrote ($3, after -db -f), then become HAProxy.
fail() {{ echo "dlhpc: Ray Serve's HAProxy configuration is not the one that was expected: $1" >&2; exit 1; }}
[ "$2" = -f ] || fail "arguments $*"
sed -i -f {shlex.quote(str(folder / "edits.sed"))} "$3"
grep -qE '^ *bind (:|\\*:)' "$3" && fail "it listens on every interface"
{checks}
grep -E '^ *retry-on ' "$3" | grep -qvE '^ *retry-on conn-failure *$' && fail "it repeats what a replica had"
echo $$ > {shlex.quote(str(folder / PID_FILE))}
# With its parent HAProxy dies too, or it would hold the port for ever.
command -v setpriv > /dev/null && exec setpriv --pdeathsig KILL {shlex.quote(binary)} "$@"
exec {shlex.quote(binary)} "$@"
"""
