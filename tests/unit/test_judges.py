"""What tests/soak/judges.py makes of what tlsfuzzer prints."""

from __future__ import annotations

from soak import judges

PRINTED = f"""sanity ...
OK

refused, as it has to be ...
{judges.LARGE}
Error encountered while processing node <ExpectAlert> with last message being: ...
Traceback (most recent call last):
  File "runner.py", line 1, in run
    node.process(self.state)
AssertionError: Expected alert description "decode_error" does not match

"with a number" repeat 3...
OK

expected ...
OK-expected failure

sanity ...
Traceback (most recent call last):
ConnectionResetError: reset

Test end
====================
TOTAL: 5
"""


def test_verdicts_are_read() -> None:
    verdicts = judges.read_verdicts(PRINTED)
    assert verdicts.of == {
        # It failed once.
        "sanity": "ConnectionResetError: reset",
        "refused, as it has to be": (
            'AssertionError: Expected alert description "decode_error" does not match'
        ),
        '"with a number" repeat 3': None,
        "expected": None,
    }
    assert verdicts.large == {"refused, as it has to be"}
    assert verdicts.over
    assert not judges.read_verdicts(PRINTED.partition("TOTAL")[0]).over


def test_a_conversation_that_only_the_node_fails_is_worse() -> None:
    there, here = (judges.read_verdicts("sanity ...\nOK\n\nTOTAL: 1\n") for _ in "ab")
    total = judges.Sum()
    total.add("rsa, finished", there, here, verbose=False)
    assert (total.worse, total.passed_here) == ([], 1)
    here.of["sanity"] = "AssertionError"
    total.add("rsa, finished", there, here, verbose=False)
    assert total.worse == ["rsa, finished, 'sanity': AssertionError"]
    total.add("rsa, session-resumption", there, here, verbose=False)
    here.large.add("sanity")
    total.add("rsa, finished", there, here, verbose=False)
    assert total.deliberate == {judges.TICKETS: 1, judges.LARGE_HELLO: 1}
    assert len(total.worse) == 1
    there.of["sanity"] = "AssertionError"
    total.add("rsa, finished", there, here, verbose=False)
    assert len(total.worse) == 1
