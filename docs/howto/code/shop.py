import re

from klein import Klein

app = Klein()
names = ["kettle", "k" * 40 + "!"]


@app.route("/")
def home(request):
    return "the shop\n"


@app.route("/search")
def search(request):
    pattern = request.args[b"q"][0].decode()
    print("searching for", pattern)
    return "\n".join(name for name in names if re.fullmatch(pattern, name)) + "\n"
