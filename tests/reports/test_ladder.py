"""The ladder of learning rates as text."""

from __future__ import annotations

from pytest_genmodel.reports.ladder import ladder_lines


def row(rate, weights, latents, **more):
    return {
        "rate": rate,
        "used_rate": rate,
        "step": weights,
        "weights": weights,
        "moved": 10,
        "values": 10,
        "components": {},
        "latents": latents,
        "frames": latents,
        **more,
    }


def verdict(*rows, **measured):
    return {"invariant": "lr_ladder", "measurements": {"trainer": "full", "ladder": list(rows), **measured}}


def lines(*rows, unicode=True, **measured):
    return list(ladder_lines(verdict(*rows, **measured), unicode=unicode))


def test_marks_stand_a_decade_apart_for_a_factor_of_ten():
    shown = lines(row(0.0, 0.0, 0.0), row(1e-7, 1e-7, 1e-5), row(1e-6, 1e-6, 1e-4))

    assert shown[-4:] == [
        "    rate    1e-7    1e-5",
        "    1e-07   ●·······○····",
        "    1e-06   ····●·······○",
        "    ● weights  ○ sample (latents)  ◉ both",
    ]


def test_one_place_for_both_and_none_for_zero_and_infinity():
    shown = lines(
        row(0.0, 0.0, 0.0),
        row(1e-7, 1e-7, 1e-7),
        row(1e-6, 0.0, 0.0),
        row(1e-5, 1e-6, "inf"),
    )

    assert shown[-4:-1] == ["    1e-07   ◉····", "    1e-06   ·····", "    1e-05   ····◉"]


def test_ascii_alone():
    shown = "\n".join(lines(row(0.0, 0.0, 0.0), row(1e-7, 1e-7, 1e-5), row(1e-6, 1e-6, 1e-4), unicode=False))

    assert shown.isascii()
    assert "    1e-07   w.......s...." in shown


def test_what_is_not_known_is_a_dash_and_the_step_stands_in_for_it():
    shown = lines(row(0.0, 0.0, 0.0), row(1e-7, None, 1e-5, step=1e-7, used_rate=None), row(1e-6, 1e-6, 1e-4))

    assert any(line.split()[:4] == ["1e-07", "-", "1e-07", "-"] for line in shown)
    assert "    1e-07   ●·······○····" in shown


def test_rates_that_move_a_part_are_explained():
    shown = lines(row(0.0, 0.0, 0.0), row(1e-9, 1e-10, 1e-7), row(1e-6, 1e-6, 1e-4), coarse={"1e-09": 0.25})

    assert any(line.startswith("    1e-09: moves 25.0% of the values") for line in shown)


def test_nothing_is_said_of_other_verdicts_and_of_ladders_that_never_began():
    assert list(ladder_lines({"invariant": "coverage", "measurements": {}})) == []
    assert list(ladder_lines({"invariant": "lr_ladder", "measurements": {"trainer": "full"}})) == []
    assert len(lines(row(0.0, 0.0, 0.0))) == 4
