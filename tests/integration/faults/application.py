"""An application that does whatever harm a request asks it for. A session under test runs it as ``faulty:Faulty``."""

SOURCE = r"""
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

HELD = []


class Faulty(Resource):
    isLeaf = True

    def render_GET(self, request):
        name = request.path.decode().strip("/")
        if name == "health":
            # As where a data base stands behind it: it needs a thread of the pool.
            answered = deferToThread(time.monotonic)
            answered.addCallback(lambda _: (request.write(b"well"), request.finish()))
            answered.addErrback(lambda _: None)
            return NOT_DONE_YET
        if name == "slow":
            reactor.callLater(0.5, lambda: (request.write(b"slow"), request.finish()))
            return NOT_DONE_YET
        if name:
            return getattr(self, name)(request)
        return b"%d" % os.getpid()

    # --- ends ---

    def exit_now(self, request):
        os._exit(3)

    def segfault(self, request):
        os.kill(os.getpid(), signal.SIGSEGV)
        return b"gone"

    # --- exceptions ---

    def raise_in_callback(self, request):
        reactor.callLater(0, self.explode)
        return b"soon"

    def raise_in_deferred(self, request):
        reactor.callLater(0, lambda: fail(RuntimeError("boom in a Deferred")) and None)
        return b"soon"

    def raise_in_thread(self, request):
        threading.Thread(target=self.explode).start()
        return b"soon"

    def explode(self):
        raise RuntimeError("boom")

    # --- hangs ---

    def sleep(self, request):
        time.sleep(3600)

    def spin(self, request):
        while True:
            pass

    def search(self, request):
        re.match(r"(a+)+$", "a" * 64 + "b")

    def deadlock(self, request):
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

    def take_all_threads(self, request):
        for _ in range(reactor.getThreadPool().max):
            reactor.callInThread(time.sleep, 3600)
        return b"taken"

    # --- shortages ---

    def eat_memory(self, request):
        resource.setrlimit(resource.RLIMIT_AS, (2**29, resource.RLIM_INFINITY))
        reactor.callLater(0, lambda: HELD.append(bytearray(2**32)))
        return b"eating"

    def eat_descriptors(self, request):
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))
        try:
            while True:
                HELD.append(open(os.devnull))
        except OSError:
            return b"eaten"

    def fork_and_outlive(self, request):
        child = os.fork()
        if child == 0:
            time.sleep(3600)
        print("child", child)
        reactor.callLater(0.2, os._exit, 0)
        return b"%d" % child
"""
