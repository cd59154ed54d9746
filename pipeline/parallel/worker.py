"""A process of ``local``: reads tasks as lines of JSON and answers with lines of JSON.

It ends when its input does, even in the middle of a task: nobody is left who would take the answer.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading


def main() -> None:
    """Serves until the end of the input."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has started this one
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            tasks.put(line)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    while True:
        call = json.loads(tasks.get())
        module, _, name = call["function"].partition(":")
        result = getattr(importlib.import_module(module), name)(*call["arguments"])
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
