"""Keeps the libraries' banners and warnings out of a user's sight."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from nemo_workflow.utils import startup


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what is written to stdout and stderr, by C code too, to a scratch file; with NEMO_WORKFLOW_DEBUG set its end is shown on an error."""
    startup.keep_caches_out_of_home()  # what is kept quiet is an import of NeMo, mostly
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        failed = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except BaseException:
            failed = True
            raise
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            logging.captureWarnings(False)
            for target, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, target)
                os.close(copy)
            if failed and os.environ.get("NEMO_WORKFLOW_DEBUG"):
                sink.seek(0)
                sys.stderr.write(sink.read()[-4000:].decode(errors="replace"))
