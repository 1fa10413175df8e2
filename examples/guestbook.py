"""A Klein application with a data base behind it: SQLite, through `twisted.enterprise.adbapi`.

    twistd -n serverworker --port 8080 --app guestbook:app --poll-route /heartbeat

The data base is opened when this module is loaded, which costs nothing yet: adbapi connects in its own threads, at the
first query. Several workers may share the file, since SQLite locks it.
"""

from __future__ import annotations

import os
from html import escape
from typing import Any

from klein import Klein
from twisted.enterprise.adbapi import ConnectionPool, Transaction
from twisted.web.iweb import IRequest

app = Klein()

entries = ConnectionPool(
    "sqlite3",
    os.environ.get("GUESTBOOK", "guestbook.sqlite"),
    # adbapi uses a connection in one thread at a time, but SQLite cannot know that.
    check_same_thread=False,
    cp_min=1,
    cp_max=2,
)


def _entries(transaction: Transaction) -> list[tuple[str]]:
    transaction.execute("create table if not exists entry (text not null)")
    transaction.execute("select text from entry order by rowid desc limit 50")
    return list(transaction.fetchall())


def _add(transaction: Transaction, text: str) -> None:
    transaction.execute("create table if not exists entry (text not null)")
    transaction.execute("insert into entry values (?)", (text,))


@app.route("/", methods=["GET"])
async def show(request: IRequest) -> str:
    """The page."""
    rows = await entries.runInteraction(_entries)
    items = "".join(f"<li>{escape(text)}</li>" for (text,) in rows)
    form = '<form method="post"><input name="text" required><button>Sign</button></form>'
    return f"<!DOCTYPE html><title>Guestbook</title><h1>Guestbook</h1>{form}<ul>{items}</ul>"


@app.route("/", methods=["POST"])
async def sign(request: Any) -> str:
    """A new entry."""
    text = request.args.get(b"text", [b""])[0].decode("utf-8", "replace").strip()
    if not text:
        request.setResponseCode(400)
        return "an entry needs a text\n"
    await entries.runInteraction(_add, text)
    request.redirect(b"/")
    return ""


@app.route("/heartbeat")
async def heartbeat(request: IRequest) -> str:
    """What the worker polls: good only if the data base answers."""
    await entries.runQuery("select 1")
    return "ok\n"
