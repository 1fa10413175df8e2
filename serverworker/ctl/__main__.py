"""``python -m serverworker.ctl`` is `serverworkerctl`."""

from serverworker.ctl.main import main

main()
