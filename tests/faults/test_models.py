"""The fault table, models: one that fails on some inputs, one that is slow, and one that is not there."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.images import grey, saved
from tests.faults.raw import asked, request
from tests.faults.server import GOOD, Running, poison

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

POISONED = "/models/poisoned/predict"
SLOW = "/models/slow/predict"
PATTERN = "/models/{name}/predict"


def test_an_input_on_which_the_model_fails(server: Running) -> None:
    with server.unharmed({(PATTERN, 500): 1, (PATTERN, 200): 1}):
        told = server.predict(poison(), POISONED)
        assert (told.status_code, told.json()["code"]) == (500, "prediction_failed")
        assert server.predict(GOOD, POISONED).status_code == 200


def test_poison_in_a_batch_fails_alone(server: Running) -> None:
    contents = [GOOD] * 5 + [poison()] + [GOOD] * 6
    with server.unharmed({(PATTERN, 200): 11, (PATTERN, 500): 1}), ThreadPoolExecutor(12) as pool:
        told = list(pool.map(lambda content: server.predict(content, POISONED).status_code, contents))
        assert told == [200] * 5 + [500] + [200] * 6


def test_poison_among_the_images_of_a_request_fails_alone(server: Running) -> None:
    rows = poison().removeprefix(b'{"pixels": ').removesuffix(b"}")
    with server.unharmed({(PATTERN, 200): 1}):
        told = server.predict(b'{"pixels": [%s, %s]}' % (rows.replace(b"255", b"0"), rows), POISONED)
        fine, failed = told.json()["predictions"]
        assert (told.status_code, failed["error"]["code"]) == (200, "prediction_failed")
        assert fine["label"]


def test_the_breaker_opens_for_one_model_and_closes_again(server: Running) -> None:
    codes = []
    with server.unharmed(None):
        while "breaker_open" not in codes:
            told = server.predict(poison(), POISONED)
            codes.append(told.json()["code"])
        assert set(codes) == {"prediction_failed", "breaker_open"}
        assert (told.status_code, told.headers["retry-after"]) == (503, "1")
        assert server.predict().status_code == 200  # the other model is not behind this breaker
        assert server.breakers() == {"digits:1": "closed", "poisoned:1": "open", "slow:1": "closed"}
        while server.predict(GOOD, POISONED).status_code == 503:
            time.sleep(0.1)  # as a client that heeds Retry-After
        while server.breakers()["poisoned:1"] != "closed":
            assert server.predict(GOOD, POISONED).status_code == 200


def test_a_slow_model_misses_deadlines_and_holds_no_other_up(server: Running) -> None:
    files = [("images", ("a", saved(grey(), "PNG")))] * 60
    with server.unharmed(None), ThreadPoolExecutor(1) as pool:
        late = pool.submit(server.http.post, SLOW, files=files, headers={"x-deadline-ms": "20"})
        assert server.predict().status_code == 200
        told = late.result()
        answer = told.json()
        if told.status_code == 200:  # the first of them were in time
            missed = {each["error"]["code"] for each in answer["predictions"] if "error" in each}
            assert missed, answer
            assert missed <= {"deadline_exceeded", "overloaded"}
        else:
            assert (told.status_code, answer["code"]) in {
                (504, "deadline_exceeded"), (503, "overloaded"), (408, "request_timeout"),
            }, answer  # fmt: skip
        while server.predict(GOOD, SLOW).status_code != 200:
            time.sleep(0.05)


@pytest.mark.parametrize("path", ["/models/nobody/predict", "/models/digits/versions/7/predict"])
def test_an_unknown_model(server: Running, path: str) -> None:
    told = asked(server.port, request(GOOD, line=f"POST {path} HTTP/1.1"))
    assert (told.status, told.code) in {(404, "unknown_model"), (404, "not_found")}, told
