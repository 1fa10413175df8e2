"""A page that counts its visitors."""

from twisted.internet import reactor
from twisted.web.resource import Resource


class Page(Resource):
    isLeaf = True
    visits = 0

    def render_GET(self, request):
        if request.path == b"/heartbeat":
            return b"ok\n"
        if request.path == b"/boom":
            reactor.callLater(0, self.explode)
            return b"This worker is about to crash.\n"
        self.visits += 1
        return b"You are visitor number %d.\n" % self.visits

    def explode(self):
        raise RuntimeError("you asked for it")
