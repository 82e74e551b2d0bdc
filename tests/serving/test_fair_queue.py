"""Clients take turns, each in its own order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.serving.fair_queue import FairQueue

Sent = list[tuple[str, int]]
SENT = st.lists(st.sampled_from("abcd"), max_size=40).map(lambda clients: list(zip(clients, range(40), strict=False)))


def queued(sent: Sent) -> FairQueue[tuple[str, int]]:
    queue = FairQueue[tuple[str, int]]()
    for client, number in sent:
        queue.push(client, (client, number))
    return queue


def emptied(queue: FairQueue[tuple[str, int]]) -> Sent:
    return [queue.pop() for _ in range(len(queue))]


def test_one_of_many_requests_does_not_make_another_client_wait_for_all() -> None:
    order = emptied(queued([("greedy", number) for number in range(200)] + [("polite", 200)]))
    assert order.index(("polite", 200)) == 1


def test_among_clients_of_one_request_each_it_is_first_in_first_out() -> None:
    sent = [(f"client {number}", number) for number in range(10)]
    assert emptied(queued(sent)) == sent


@given(SENT)
def test_nothing_is_lost_and_each_client_keeps_its_order(sent: Sent) -> None:
    order = emptied(queued(sent))
    assert sorted(order) == sorted(sent)
    for client in "abcd":
        assert [each for each in order if each[0] == client] == [each for each in sent if each[0] == client]


@given(SENT)
def test_nobody_gets_a_second_turn_before_everybody_who_waits_had_one(sent: Sent) -> None:
    turns = {
        client: [place for place, each in enumerate(emptied(queued(sent))) if each[0] == client] for client in "abcd"
    }
    for client, places in turns.items():
        for before, after in itertools.pairwise(places):
            between = [sum(before < place < after for place in turns[other]) for other in turns if other != client]
            assert max(between) <= 1


@given(SENT, st.sampled_from("abcde"))
def test_it_tells_how_many_go_first(sent: Sent, client: str) -> None:
    queue = queued(sent)
    ahead = queue.ahead(client)
    queue.push(client, (client, 99))
    place = emptied(queue).index((client, 99))
    # Whoever stands behind this client in the round goes after it in the last of its turns.
    assert place <= ahead <= place + 3


def test_an_empty_queue_says_so() -> None:
    queue = queued([("a", 1)])
    queue.pop()
    assert len(queue) == 0
    assert queue.ahead("a") == 0
    with pytest.raises(IndexError, match="empty"):
        queue.pop()
