"""A page whose visitors are counted in the monitor, where a crash of the worker loses nothing."""

from twisted.internet.defer import ensureDeferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from serverworker import SessionAgent


class Visits(SessionAgent):
    visits = 0

    async def initialize_monitor(self, monitor):
        monitor.on("visit", self.count)
        monitor.on_crash_detected(lambda died: print("worker", died.worker, "died:", died.cause.text))
        monitor.add_console_command(
            "visits", [], lambda: f"{self.visits} visits so far", "how many there were"
        )

    def count(self, args):
        self.visits += 1
        return self.visits

    async def initialize_server_worker(self, worker):
        worker.listen("server", Site(Page(worker)))
        worker.add_exit_handler(lambda reason: print("this worker ends:", reason.kind.value))


class Page(Resource):
    isLeaf = True

    def __init__(self, worker):
        super().__init__()
        self.worker = worker

    def render_GET(self, request):
        if request.path == b"/heartbeat":
            return b"ok\n"
        if request.path == b"/boom":
            self.worker.reactor.callLater(0, self.explode)
            return b"This worker is about to crash.\n"
        ensureDeferred(self.answer(request))
        return NOT_DONE_YET

    async def answer(self, request):
        [number] = await self.worker.emit("visit")
        request.write(b"You are visitor number %d.\n" % number)
        request.finish()

    def explode(self):
        raise RuntimeError("you asked for it")
