"""What becomes of an attempt whose workers are lost: it goes on from its checkpoint, or ends and says why."""

from __future__ import annotations

import pytest

from eco_ray.on_ray.training.driver import WorkersLost, until_done


def run(ends, newest, max_restarts=3):
    """`ends`: what each start comes to, a loss (None) or a code; `newest`: the checkpoint before and after each."""
    ends, newest = iter(ends), iter(newest)

    def once():
        code = next(ends)
        if code is None:
            raise WorkersLost("worker 1 died")
        return code

    return until_done(once, lambda: next(newest), max_restarts)


def test_done_or_paused_is_told():
    assert run([0], ["a"]) == 0
    assert run([75], [None]) == 75


def test_a_loss_goes_on_from_the_newest_checkpoint(capsys):
    assert run([None, None, 75], [None, "a", "a", "b", "b"]) == 75
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "eco_ray: worker 1 died; all workers start again from a (restart 1 of 3)",
        "eco_ray: worker 1 died; all workers start again from b (restart 2 of 3)",
    ]


@pytest.mark.parametrize(
    ("ends", "newest", "most", "why"),
    [
        ([None], [None, None], 3, "there is no checkpoint to go on from, and nothing begins again unasked"),
        ([None], ["a", "a"], 3, "no checkpoint was written since the last start, so another one would end alike"),
        ([None] * 3, ["a", "b", "b", "c", "c", "d"], 2, "its workers were started again 2 times already"),
        ([None], [None, "a"], 0, "its workers were started again 0 times already, which is the limit"),
    ],
)
def test_what_cannot_go_on_ends_with_the_reason(capsys, ends, newest, most, why):
    with pytest.raises(SystemExit) as ended:
        run(ends, newest, most)
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"eco_ray: worker 1 died; {why}")
