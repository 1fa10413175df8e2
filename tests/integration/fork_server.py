"""Imports what every session does, then forks a process for each order that comes through standard input.

Run by `programs.py`. To the program that it is to be, the forked process is as one that was started by itself: it
leads a session of its own, and comes to its end as the interpreter's main program does. Its parent tells its process
id, then its exit status.
"""

import json
import os
import socket
import sys

from twisted.application.twist._twist import Twist
from twisted.scripts import twistd

import serverworker.session  # noqa: F401 - for those that are forked; it installs no reactor

RUN = {"twistd": twistd.run, "twist": lambda: Twist.main(sys.argv)}


def serve() -> tuple[bytes, int, int]:
    """Answer an order, and the input and output of its program, in a process that was forked for it."""
    with socket.socket(fileno=os.dup(0)) as orders:
        while True:
            order, descriptors, _, _ = socket.recv_fds(orders, 1 << 20, 3)
            if not order:
                sys.exit()
            keeper = os.fork()
            if not keeper:
                break
            os.waitpid(keeper, 0)
            for each in descriptors:
                os.close(each)
    stdin, output, telling = descriptors
    if os.fork():
        os._exit(0)  # so that what stays has no parent that would have to wait for it
    program = os.fork()
    if program:
        os.write(telling, b"%d\n" % program)
        _, status = os.waitpid(program, 0)
        os.write(telling, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(telling)
    return order, stdin, output


order, stdin, output = serve()
os.setsid()
for number, its in enumerate((stdin, output, output)):
    os.dup2(its, number)
os.closerange(3, 64)
sys.argv, folder, variables = json.loads(order)
os.chdir(folder)
os.environ.clear()
os.environ.update(variables)
sys.path[0] = ""
sys.exit(RUN[sys.argv[0]]())
