"""One small application of each kind that ``--app`` takes."""

import os

from klein import Klein
from twisted.application.service import Service
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from twisted.web.server import Site

from serverworker import ServerWorker


class Page(Resource):
    """A Resource class that is made without arguments."""

    isLeaf = True

    def render_GET(self, request):
        return b"a Resource, in process %d\n" % os.getpid()


page = Page()  # an instance does as well

site = Site(page)  # so does a Site, with a log or a session class of its own

app = Klein()


@app.route("/")
def home(request):
    return "a Klein application\n"


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class Echoes(Service):
    """An IService: started when the worker is to serve, stopped when it has drained."""

    def startService(self):
        super().startService()
        worker = ServerWorker.current()
        worker.listen("server", site)
        worker.listen("echo", Factory.forProtocol(Echo))


async def work(worker):
    """The original session's ``work``: called once, when the worker is to serve."""
    worker.listen("server", site)
    worker.listen("echo", Factory.forProtocol(Echo))
