"""Runs `sbs annotate` once for every line on stdin, each in a process of its own.

The processes are forked from this one, which has imported everything: a test that kills twenty of
them does not wait for twenty interpreters to start. Prints the process id, then its exit status.
"""

import os
import sys

import openai  # noqa: F401

from sbs_jax import cli
from sbs_jax.teacher import annotate, client  # noqa: F401


def main() -> None:
    for _ in sys.stdin:
        process = os.fork()
        if process == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(cli.main(["annotate", *sys.argv[1:]]))
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
