"""An application that binds its port by itself, for example because a library insists on it."""

import os

from twisted.application.strports import service
from twisted.web.resource import Resource
from twisted.web.server import Site


class Page(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"process %d bound its port by itself\n" % os.getpid()


def work(worker):
    # An IService that `work` answers is started at once, and stopped when the worker ends.
    return service(worker.ports["server"], Site(Page()), reactor=worker.reactor)
