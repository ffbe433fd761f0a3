"""How far a long work is: a bar for people, a line now and then for logs."""

import io

from rich.console import Console

from sidecar.cli.progress import lines_shown, steps_shown


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def lines(*told):
    """Tell steps at times; returns the lines."""
    clock, stream = Clock(), io.StringIO()
    show = lines_shown(stream, clock)
    for now_s, *step in told:
        clock.now_s = now_s
        show(*step)
    return stream.getvalue().splitlines()


def test_a_short_work_is_not_spoken_of():
    assert lines((0, "read", 1, 3), (1, "read", 2, 3), (2, "read", 3, 3)) == []


def test_a_long_one_says_now_and_then_how_far_it_is_and_how_long_it_takes():
    told = [(second, "read", second + 1, 100) for second in range(100)]
    assert lines(*told) == [
        "read: 31 of 100, 0:30 so far, about 1:06 to go",
        "read: 61 of 100, 1:00 so far, about 0:38 to go",
        "read: 91 of 100, 1:30 so far, about 0:08 to go",
        "read: 100 of 100, in 1:39",
    ]


def test_each_step_has_its_own_time():
    found = lines(
        (0, "read", 1, 2), (40, "read", 2, 2), (41, "grouped", 1, 9), (45, "grouped", 9, 9)
    )
    assert found == ["read: 2 of 2, in 0:40"]


def test_people_see_a_bar_with_the_time_that_is_left():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with steps_shown(console) as show:
        show("read", 1, 4)
        show("read", 4, 4)
        show("grouped", 1, 2)
    text = stream.getvalue()
    assert "read" in text
    assert "1 of 2" in text
    assert "━" in text


def test_a_terminal_that_was_closed_ends_nothing():
    class Closed(io.StringIO):
        def write(self, _):
            raise OSError(5, "Input/output error")

    with steps_shown(Console(file=Closed(), force_terminal=True)) as show:
        show("read", 1, 2)
