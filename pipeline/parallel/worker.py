"""Processes of ``local``: one that imports what tasks need, and its forks, which read tasks as lines of JSON and answer
with lines of JSON.

All of them end when their connection does, even in the middle of a task: nobody is left who would take the answer.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import socket
import threading


def main() -> None:
    """Serves as a fork of itself; the process that was started ends when its input does."""
    connection = _forked()
    if connection is not None:
        _serve(connection)


def _forked() -> socket.socket | None:
    """Imports what modules name in PRELOAD, and forks when the input says so; a fork returns with its connection.

    The input is a socket. The first message names the modules, in JSON. Afterwards a file descriptor that comes along
    is the connection of a process to be made, and its id the answer; the id of a process that has ended is answered by
    how it did, as ``os.waitpid`` says.
    """
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has started this one
    for name in json.loads(control.recv(1 << 16) or b"[]"):
        for needed in getattr(importlib.import_module(name), "PRELOAD", ()):
            importlib.import_module(needed)
    control.sendall(b"0")
    while True:
        message, given, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            return None
        if not given:
            control.sendall(b"%d" % os.waitpid(int(message), 0)[1])
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            return socket.socket(fileno=given[0])
        os.close(given[0])
        control.sendall(b"%d" % pid)


def _serve(connection: socket.socket) -> None:
    """Does the tasks of a connection until it ends."""
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in connection.makefile("r", encoding="utf-8"):
            tasks.put(line)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    while True:
        call = json.loads(tasks.get())
        module, _, name = call["function"].partition(":")
        result = getattr(importlib.import_module(module), name)(*call["arguments"])
        connection.sendall((json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
