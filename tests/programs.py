"""Programs of a kernel that wait for each other, under Triton's interpreter, which runs them one after another.

Here each has a thread of its own, and only one of them runs at a time: until it counts in at a meeting or looks whether
the others have. So a meeting that is missing shows always, not now and then: the first program goes on to what the
others have not yet written.
"""

import inspect
import threading
from unittest import mock

from triton.runtime import interpreter


def together(last_first=False):
    """Launches meanwhile run all programs at once; the order says who comes first wherever there is a choice."""

    class Executor(interpreter.GridExecutor):
        def __call__(self, *arguments, **named):
            known = inspect.getfullargspec(self.fn).args
            named = {name: x for name, x in named.items() if name in known}
            builder = interpreter.interpreter_builder
            patched = interpreter._patch_lang(self.fn)
            try:
                given = inspect.getcallargs(self.fn, *arguments, **named)
                given = {k: x if k in self.constexprs else interpreter._implicit_cvt(x) for k, x in given.items()}
                grid = (*self.grid, 1, 1)[:3]
                builder.set_grid_dim(*grid)
                places = [(i, j, k) for i in range(grid[0]) for j in range(grid[1]) for k in range(grid[2])]
                _run(self.fn, given, places[::-1] if last_first else places, builder)
            finally:
                patched.restore()

    return mock.patch.object(interpreter, "GridExecutor", Executor)


def _run(function, arguments, places, builder):
    turn = threading.Condition()
    waiting = list(range(len(places)))  # whose turn comes after whose
    failed = []
    mine = threading.local()

    def wait():
        turn.wait_for(lambda: failed or (waiting and waiting[0] == mine.number))
        if failed:
            raise RuntimeError("another program failed")
        builder.grid_idx = places[mine.number]

    rmw = type(builder).create_atomic_rmw

    def atomic(self, *args):
        answer = rmw(self, *args)
        with turn:
            waiting.append(waiting.pop(0))
            turn.notify_all()
            wait()
        return answer

    def program(number):
        mine.number = number
        try:
            with turn:
                wait()
            function(**arguments)
        except BaseException as error:
            with turn:
                failed.append(error)
        with turn:
            if number in waiting:
                waiting.remove(number)
            turn.notify_all()

    with mock.patch.object(type(builder), "create_atomic_rmw", atomic):
        threads = [threading.Thread(target=program, args=(number,)) for number in range(len(places))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
