"""Notes that the monitor keeps, so that no crash of a worker loses one."""

from twisted.internet.defer import ensureDeferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from serverworker import EmitError, EmitTimeout, RemoteError, SessionAgent
from serverworker.values.events import RestartFailed


class Notes(SessionAgent):
    async def initialize_monitor(self, monitor):
        self.notes = []
        monitor.on("add", self.add)
        monitor.on("archive", self.archive)
        monitor.add_console_command("notes", [], self.count, "how many notes there are")
        monitor.add_console_command("notes", [r"\d+"], self.show, "one note, by its number")
        monitor.add_console_command("forget", [], self.forget, "have all workers forget what they keep")
        monitor.on_crash_detected(self.page_someone)
        monitor.subscribe(self.deploy_failed, RestartFailed)
        monitor.add_exit_handler(self.say_goodbye)

    # what the workers ask for

    def add(self, args):
        if not args["text"]:
            raise ValueError("a note needs a text")
        self.notes.append(args["text"])
        return len(self.notes)

    async def archive(self, args):
        result = await self.monitor.exec(["gzip", "--keep", "--force", args["file"]], timeout=60)
        if result.status != 0:
            raise RuntimeError(f"gzip ended with status {result.status}: {result.stderr.strip()}")
        return f"archived in {result.seconds:.1f} s"

    # what the operator types

    def count(self):
        return f"{len(self.notes)} notes"

    def show(self, number):
        return self.notes[int(number) - 1]

    async def forget(self):
        answers = await self.monitor.emit("forget", {"older_than_seconds": 60})
        return "\n".join(f"worker {worker}: {answer}" for worker, answer in answers.items())

    # hooks

    def page_someone(self, died):
        print(f"worker {died.worker} died: {died.cause.text}; {died.next_step}")

    def deploy_failed(self, told):
        print(f"the deploy failed: {told.event.text}")

    def say_goodbye(self, reason):
        print(f"the session ends: {reason.text}")

    # --- in each worker ---

    async def initialize_server_worker(self, worker):
        root = Resource()
        root.putChild(b"add", Route(self.add_note))
        root.putChild(b"archive", Route(self.archive_file))
        root.putChild(b"health", Route(self.health))
        root.putChild(b"ready", Route(self.ready))
        self.leaving = False
        worker.listen("server", Site(root))
        worker.on("forget", lambda args: f"forgot what is older than {args['older_than_seconds']} s")
        worker.on_drain(self.drain)
        worker.add_exit_handler(self.tell_why)

    async def add_note(self, request):
        text = request.args.get(b"text", [b""])[0].decode()
        try:
            [number] = await self.worker.emit("add", {"text": text}, timeout=5)
        except RemoteError as error:
            return 400, f"refused: {error.record.message}"
        except EmitTimeout:
            return 504, "the monitor does not answer; perhaps it has the note, perhaps not"
        except EmitError as error:
            return 503, f"not now: {error}"
        return 200, f"this is note {number}"

    async def archive_file(self, request):
        key = (request.getHeader("authorization") or "").removeprefix("Bearer ")
        if not self.worker.authorizes(key):
            return 403, "the session key is needed"
        [result] = await self.worker.emit("archive", {"file": "notes.py"}, timeout=90)
        return 200, result

    async def health(self, request):
        return 200, "this worker serves"

    async def ready(self, request):
        return (503, "leaving") if self.leaving else (200, "ready")

    def drain(self):
        self.leaving = True

    async def tell_why(self, reason):
        self.worker.lifecycle_notification(f"ends by {reason.kind.value}: {reason.error or reason.text}")


class Route(Resource):
    """Answers with the status and the text that a coroutine function comes to."""

    isLeaf = True

    def __init__(self, respond):
        super().__init__()
        self.respond = respond

    def render(self, request):
        ensureDeferred(self.answer(request)).addErrback(request.processingFailed)
        return NOT_DONE_YET

    async def answer(self, request):
        status, text = await self.respond(request)
        request.setResponseCode(status)
        request.write(text.encode() + b"\n")
        request.finish()
