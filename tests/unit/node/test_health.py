"""The state of a node, and who hears of it."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import (
    CheckResult,
    ConfigError,
    Message,
    NetworkOptions,
    Node,
    NodeHealth,
    NodeOptions,
    Peer,
)
from fastnode.dispatch.context import HandlerContext
from fastnode.limits import MAX_CHECK_NAME_BYTES, MAX_CHECKS
from fastnode.node.health import HealthReport, Phase, Readiness
from fastnode.node.slow import SlowCallbacks

PHASES: list[Phase] = ["starting", "up", "leaving", "stopped"]
PLAIN = NetworkOptions(plaintext=True, acceptors=())


def make_readiness(*, wanted: bool = True) -> Readiness:
    return Readiness("a@b", SlowCallbacks(None, HandlerContext(), "a@b"), wanted=wanted)


def make_node(**options: Any) -> Node:
    return Node("a@127.0.0.1", NodeOptions(network=PLAIN, **options))


# --- the state -----------------------------------------------------------------------


@given(
    wanted=st.booleans(),
    steps=st.lists(st.one_of(st.booleans(), st.just("next")), max_size=12),
)
def test_listeners_hear_of_each_change_once_and_end_with_the_truth(
    wanted: bool, steps: list[bool | str]
) -> None:
    readiness = make_readiness(wanted=wanted)
    heard: list[bool] = []
    readiness.on_change(heard.append)
    expected: list[bool] = []
    phase, word = 0, wanted
    for step in steps:
        if step == "next":
            phase = min(phase + 1, 3)
            readiness.enter(PHASES[phase])
        else:
            word = bool(step)
            readiness.want(word)
        ready = PHASES[phase] == "up" and word
        if ready != (expected[-1] if expected else False):
            expected.append(ready)
        assert readiness.ready is ready
        assert readiness.state == (
            ("ready" if word else "starting") if phase == 1 else PHASES[phase]
        )
    assert heard == expected


async def test_a_listener_that_changes_the_state() -> None:
    """Everyone hears the changes in the same order."""
    readiness = make_readiness()
    heard: list[tuple[str, bool]] = []

    def objects(ready: bool) -> None:
        heard.append(("first", ready))
        readiness.want(False)

    readiness.on_change(objects)
    readiness.on_change(lambda ready: heard.append(("second", ready)))

    readiness.enter("up")
    assert heard == [
        ("first", True),
        ("second", True),
        ("first", False),
        ("second", False),
    ]


def test_a_listener_is_a_plain_function() -> None:
    async def listener(ready: bool) -> None:
        del ready

    with pytest.raises(ConfigError, match="on_ready_change"):
        make_node().on_ready_change(listener)


def test_before_the_start() -> None:
    node = make_node()
    assert node.health == NodeHealth("starting", {})
    assert not node.health.ok
    node.set_ready(False)
    node.set_ready(True)
    assert node.health.state == "starting"


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_ready_is_true_or_false(value: Any) -> None:
    with pytest.raises(ConfigError, match="ready"):
        make_node().set_ready(value)
    with pytest.raises(ConfigError, match=r"NodeOptions\.ready"):
        make_node(ready=value)


# --- snapshots -----------------------------------------------------------------------


def test_ok() -> None:
    passed, failed, unknown = CheckResult(True), CheckResult(False), CheckResult()
    assert NodeHealth("ready").ok
    assert NodeHealth("ready", {"a": passed}).ok
    assert not NodeHealth("ready", {"a": passed, "b": failed}).ok
    assert not NodeHealth("ready", {"a": unknown}).ok
    assert not NodeHealth("leaving", {"a": passed}).ok


def test_a_snapshot_is_a_value() -> None:
    health = NodeHealth("ready", {"a": CheckResult(True, seconds=0.1)})
    assert pickle.loads(pickle.dumps(health)) == health
    with pytest.raises(AttributeError):
        health.state = "leaving"  # type: ignore[misc]


NAMES = st.text(min_size=1, max_size=20)
RESULTS = st.builds(
    CheckResult,
    ok=st.sampled_from([True, False, None]),
    reason=st.none() | st.text(max_size=20),
    error=st.none() | st.text(max_size=20),
    seconds=st.none() | st.floats(0, 1e6),
)


@given(checks=st.dictionaries(NAMES, RESULTS, max_size=4))
def test_what_peers_are_told(checks: dict[str, CheckResult]) -> None:
    health = NodeHealth("ready", checks)
    report = HealthReport("a@b", "00", lambda: health)
    peer = Peer("c@d", ("127.0.0.1", 1))
    told = json.loads(report.answer(Message(b"", peer, "fastnode.health")))
    assert told["state"] == "ready"
    assert told["ok"] is health.ok
    assert (told["node"], told["instance"]) == ("a@b", "00")
    assert told["checks"] == {
        name: {"ok": each.ok, "reason": each.reason, "seconds": each.seconds}
        for name, each in checks.items()
    }


def test_an_answer_is_made_once() -> None:
    made: list[NodeHealth] = []

    def snapshot() -> NodeHealth:
        made.append(NodeHealth("ready"))
        return made[-1]

    report = HealthReport("a@b", "00", snapshot)
    message = Message(b"", Peer("c@d", ("127.0.0.1", 1)), "fastnode.health")
    assert report.answer(message) is report.answer(message)
    report.changed()
    report.answer(message)
    assert len(made) == 2


# --- checks that cannot be -----------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "a\nb", "\x1b[0m", "x" * (MAX_CHECK_NAME_BYTES + 1), 7, None]
)
def test_names_of_checks(name: Any) -> None:
    with pytest.raises(ConfigError, match="name of a check") as caught:
        make_node().add_check(name, lambda: True)
    assert caught.value.hint


@pytest.mark.parametrize("setting", ["interval", "timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True, None])
def test_times_of_checks(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        make_node().add_check("a", lambda: True, **{setting: value})


def test_checks_that_cannot_be() -> None:
    node = make_node()
    with pytest.raises(ConfigError, match="cannot be called"):
        node.add_check("a", 7)  # type: ignore[arg-type]
    assert not node.health.checks
    node.add_check("a", lambda: True)
    with pytest.raises(ConfigError, match="already"):
        node.add_check("a", lambda: True)
    for number in range(MAX_CHECKS - 1):
        node.add_check(str(number), lambda: True)
    with pytest.raises(ConfigError, match="maximum"):
        node.add_check("one more", lambda: True)


# --- the prefix ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fastnode.", "fastnode.x", "fastnode.health"])
def test_the_prefix_is_reserved(name: str) -> None:
    node = make_node()
    with pytest.raises(ConfigError, match="reserved") as caught:
        node.handler(name)
    assert "choose another name" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="reserved"):
        node._endpoints.add(name, lambda message: b"")


@pytest.mark.parametrize(
    "name", ["fastnode", "fastnodes", "my.fastnode.x", "Fastnode."]
)
def test_other_names_are_free(name: str) -> None:
    make_node().handler(name)(lambda message: b"")
