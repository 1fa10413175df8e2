"""What a dump of stacks says about a hang, whole or in pieces."""

from __future__ import annotations

import inspect
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import serverworker
from serverworker.processes.stacks import HungAt, hung_at

LIBRARY = "/usr/lib/python3.11"
PACKAGES = "/srv/venv/lib/python3.11/site-packages"
OURS = str(Path(inspect.getfile(serverworker)).parent)

Frame = tuple[str, int, str]

POOL_THREAD: list[Frame] = [
    (f"{LIBRARY}/queue.py", 180, "get"),
    (f"{PACKAGES}/twisted/_threads/_threadworker.py", 66, "work"),
    (f"{LIBRARY}/threading.py", 982, "run"),
    (f"{LIBRARY}/threading.py", 1002, "_bootstrap"),
]
REACTOR: list[Frame] = [
    (f"{PACKAGES}/twisted/internet/base.py", 1094, "runUntilCurrent"),
    (f"{PACKAGES}/twisted/internet/base.py", 695, "run"),
    (f"{OURS}/processes/entry.py", 90, "main"),
    ("<frozen runpy>", 88, "_run_code"),
]
RENDER: list[Frame] = [(f"{PACKAGES}/twisted/web/resource.py", 270, "render"), *REACTOR]
IDLE: list[Frame] = [(f"{PACKAGES}/twisted/internet/epollreactor.py", 228, "doPoll"), *REACTOR[1:]]
APPLICATION: Frame = ("/srv/wiki/pages.py", 12, "show")


def thread(frames: list[Frame], *, current: bool = False) -> str:
    """One thread, as faulthandler writes it."""
    head = "Current thread" if current else "Thread"
    lines = [f'  File "{file}", line {line} in {function}\n' for file, line, function in frames]
    return f"{head} 0x00007fc4175356c0 (most recent call first):\n{''.join(lines)}\n"


def dump(main: list[Frame], *others: list[Frame]) -> str:
    """A whole dump: the main thread comes last, and took the signal."""
    return "".join(thread(each) for each in others) + thread(main, current=True)[:-1]


def at(text: str) -> str | None:
    """What `hung_at` says, in words."""
    found = hung_at(text)
    return None if found is None else str(found)


class WholeDumpTests(SynchronousTestCase):
    """Dumps that came through as they should."""

    def test_the_line_of_the_application(self) -> None:
        """It is the innermost itself: `time.sleep`, a loop, or C code that it called."""
        found = hung_at(dump([APPLICATION, *RENDER], POOL_THREAD))
        self.assertEqual(found, HungAt(file="/srv/wiki/pages.py", line=12, function="show"))
        self.assertEqual(str(found), "/srv/wiki/pages.py, line 12, in show")

    def test_the_library_that_the_application_had_called(self) -> None:
        """The application's line comes first, and what it called is named behind it."""
        inner = (f"{LIBRARY}/re/__init__.py", 166, "match")
        self.assertEqual(
            at(dump([inner, APPLICATION, *RENDER])),
            f"/srv/wiki/pages.py, line 12, in show (inside {LIBRARY}/re/__init__.py, line 166, in match)",
        )

    def test_the_innermost_of_several_lines(self) -> None:
        """Of the application's own lines the deepest one is where it hangs."""
        deeper = ("/srv/wiki/search.py", 7, "walk")
        self.assertEqual(at(dump([deeper, APPLICATION, *RENDER])), "/srv/wiki/search.py, line 7, in walk")

    def test_another_package_is_not_the_application(self) -> None:
        """A driver that waits for ever was called by somebody."""
        driver = (f"{PACKAGES}/psycopg/connection.py", 700, "wait")
        found = hung_at(dump([driver, APPLICATION, *RENDER]))
        assert found is not None and found.inside is not None
        self.assertEqual((found.file, found.inside.file), (APPLICATION[0], driver[0]))

    def test_an_application_that_is_installed(self) -> None:
        """It is nearer than Twisted, the interpreter's library, this package and the script that started it."""
        installed = (f"{PACKAGES}/wiki/pages.py", 12, "show")
        script = ("/srv/venv/bin/twistd", 8, "<module>")
        inner = (f"{LIBRARY}/threading.py", 320, "wait")
        found = hung_at(dump([inner, installed, *RENDER, script]))
        assert found is not None
        self.assertEqual(found.file, installed[0])

    def test_debian_packages(self) -> None:
        """Debian's folder for packages has another name, beside the library's."""
        packaged = ("/usr/lib/python3/dist-packages/psycopg2/pool.py", 12, "getconn")
        self.assertEqual(at(dump([packaged, *RENDER])), f"{packaged[0]}, line 12, in getconn")
        found = hung_at(dump([packaged, APPLICATION, *RENDER]))
        assert found is not None
        self.assertEqual(found.file, APPLICATION[0])

    def test_an_application_in_a_folder_like_ours(self) -> None:
        """A checkout of somebody's that bears our name is still somebody's."""
        theirs = ("/home/me/serverworker/pages.py", 3, "show")
        self.assertEqual(at(dump([theirs, *RENDER])), f"{theirs[0]}, line 3, in show")

    def test_code_without_a_file(self) -> None:
        """What was made by `exec` is the application's."""
        self.assertEqual(at(dump([("<string>", 1, "<module>"), *RENDER])), "<string>, line 1, in <module>")

    def test_no_line_of_an_application(self) -> None:
        """Where only machinery is at work, its innermost line is all there is to tell."""
        inner = (f"{PACKAGES}/twisted/web/http.py", 99, "parse")
        self.assertEqual(at(dump([inner, *REACTOR])), f"{inner[0]}, line 99, in parse")

    def test_a_waiting_reactor_hangs_nowhere(self) -> None:
        """The main thread waits for something to do: the fault is elsewhere, such as in a pool's deadlock."""
        stuck = [(f"{LIBRARY}/threading.py", 320, "wait"), APPLICATION, *POOL_THREAD]
        self.assertIsNone(hung_at(dump(IDLE, stuck)))
        asyncio = [(f"{LIBRARY}/selectors.py", 468, "select"), *REACTOR[1:]]
        self.assertIsNone(hung_at(dump(asyncio)))

    def test_an_application_that_waits_itself_hangs(self) -> None:
        """`subprocess.run` waits in the same place as a reactor, but the application called it."""
        inner = (f"{LIBRARY}/selectors.py", 415, "select")
        found = hung_at(dump([inner, (f"{LIBRARY}/subprocess.py", 550, "run"), APPLICATION, *RENDER]))
        assert found is not None
        self.assertEqual(found.function, "show")

    def test_the_signal_taken_by_another_thread(self) -> None:
        """A main thread that blocks the signal is still the last one of a whole dump."""
        text = thread(POOL_THREAD, current=True) + thread([APPLICATION, *RENDER])[:-1]
        self.assertEqual(at(text), "/srv/wiki/pages.py, line 12, in show")

    def test_of_two_dumps_the_last_counts(self) -> None:
        """A worker may be asked twice through one pipe."""
        text = dump([APPLICATION, *RENDER]) + dump([("/srv/wiki/b.py", 2, "f"), *RENDER])
        self.assertEqual(at(text), "/srv/wiki/b.py, line 2, in f")

    def test_strange_names(self) -> None:
        """Quotes and what looks like another frame are part of a file's name."""
        strange = ('/srv/we"ird", line 9 in x', 5, "<lambda>")
        found = hung_at(dump([strange, *RENDER]))
        self.assertEqual(found, HungAt(file=strange[0], line=5, function="<lambda>"))

    def test_a_deep_stack(self) -> None:
        """After 100 frames there are dots; the innermost ones are there."""
        text = dump([("/srv/wiki/deep.py", 4, "dig")] * 100)[:-1] + "\n  ...\n"
        self.assertEqual(at(text), "/srv/wiki/deep.py, line 4, in dig")


class BrokenDumpTests(SynchronousTestCase):
    """Dumps that say nothing, or not enough."""

    def test_nothing(self) -> None:
        """A stopped process dumps nothing."""
        self.assertIsNone(hung_at(""))

    def test_no_dump(self) -> None:
        """Whatever else may stand there."""
        self.assertIsNone(hung_at("Segmentation fault\n"))
        self.assertIsNone(hung_at('  File "/srv/wiki/pages.py", line 12 in show\n'))
        self.assertIsNone(hung_at("Current thread 0x1 (most recent call first):\n  <no Python frame>\n"))

    def test_more_than_a_hundred_threads(self) -> None:
        """The main thread is missing, and no other one is taken for it."""
        text = "".join(thread([APPLICATION, *POOL_THREAD]) for _ in range(100)) + "...\n"
        self.assertIsNone(hung_at(text))
        shown = "".join(thread([APPLICATION, *POOL_THREAD], current=each == 7) for each in range(100))
        self.assertIsNone(hung_at(shown + "...\n"))
        self.assertEqual(at(text + dump([APPLICATION, *RENDER])), "/srv/wiki/pages.py, line 12, in show")

    def test_cut_off_before_the_main_thread(self) -> None:
        """The last thread of half a dump is any thread."""
        whole = dump([APPLICATION, *RENDER], POOL_THREAD, POOL_THREAD)
        self.assertIsNone(hung_at(whole[: whole.index("Current")]))
        self.assertIsNone(hung_at(whole[: whole.index("Current") - 40]))

    def test_cut_off_in_the_main_thread(self) -> None:
        """Its innermost lines came first, and are enough."""
        whole = dump([APPLICATION, *RENDER], POOL_THREAD)
        cut = whole[: whole.index("runpy")]
        self.assertEqual(at(cut), "/srv/wiki/pages.py, line 12, in show")
        cut = whole[: whole.index("12 in show") + len("12 in sh")]
        self.assertIsNone(hung_at(cut))

    @given(st.integers(0, 2000))
    @settings(deadline=None, max_examples=200)
    def test_law_of_a_cut(self, length: int) -> None:
        """However much of a dump there is, it names the right line or none."""
        whole = dump([APPLICATION, *RENDER], POOL_THREAD, [("/srv/wiki/other.py", 1, "idle"), *POOL_THREAD])
        self.assertIn(at(whole[:length]), (None, "/srv/wiki/pages.py, line 12, in show"))

    @given(
        st.lists(
            st.sampled_from(
                [
                    "Current thread 0x1 (most recent call first):",
                    "Thread 0x2 [name] (most recent call first):",
                    '  File "/srv/a.py", line 1 in f',
                    '  File "", line ??? in ',
                    f'  File "x", line {"9" * 5000} in y',  # more digits than int() takes
                    "...",
                    "  ...",
                    "",
                ]
            )
            | st.text()
        ),
        st.sampled_from(["\n", "", "\r\n"]),
    )
    @settings(deadline=None, max_examples=300)
    def test_law_of_any_text(self, lines: list[str], end: str) -> None:
        """Nothing that a worker writes there raises in the monitor."""
        found = hung_at(end.join(lines) + end)
        self.assertTrue(found is None or str(found))
