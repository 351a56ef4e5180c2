"""The start: fastokens and the Hugging Face reference, which take a second each, loaded at once. Imports no numpy."""

from __future__ import annotations

import argparse
import importlib
import os
import threading
from pathlib import Path
from typing import Any

from nemo_workflow.preprocess.engine_parity import reference_ids
from nemo_workflow.preprocess.inputs import sample_texts
from nemo_workflow.preprocess.pool import Child
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.preprocess.tokenizer import TokenizerSpec
from nemo_workflow.utils.errors import os_errors_refused


def load_fastokens(tokenizer: Path | str) -> Any:
    """fastokens' own object for a tokenizer.json, or for the text of one; raises what the library likes."""
    # One thread a process: the workers are the parallelism. Both are read when the library first encodes.
    os.environ.update(RAYON_NUM_THREADS="1", FASTOKENS_BPE_THREADS="1")
    from fastokens._native import Tokenizer  # the public package pulls in its patches of transformers

    loaded = Tokenizer.from_file(str(tokenizer)) if isinstance(tokenizer, Path) else Tokenizer.from_json_str(tokenizer)
    # The file may ask for both; transformers switches both off unless asked.
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


class Loading:
    """A child that reads the reference, begun when this is made; `fast` is fastokens' object, else `not_fast` says why."""

    def __init__(self, args: argparse.Namespace, folder: Path, sources: list[Source], keys: tuple[str, ...]):
        self.wanted = args.engine != "tokenizers"
        self.flag = f"--tokenizer {args.tokenizer}"
        self.file = folder / "tokenizer.json"
        self._child = Child(reference_ids, args, self.file.parent, sample_texts(sources, keys))
        self._reference: tuple[TokenizerSpec, list[str], list[list[int]]] | None = None
        self.fast: Any = None
        self.not_fast = "there is no tokenizer.json"

    def load(self, beside: str) -> None:
        """Load fastokens here, and import the module `beside` in a thread: for most of its second the library lets go of the GIL."""
        imports = threading.Thread(target=importlib.import_module, args=(beside,))
        imports.start()
        if self.wanted and self.file.is_file():
            self.load_fast(self.file)
        imports.join()

    def load_fast(self, tokenizer: Path | str) -> None:
        try:
            self.fast = load_fastokens(tokenizer)
        except Exception as error:  # noqa: BLE001 - a library that will not take it raises what it likes
            self.fast, self.not_fast = None, (str(error) or type(error).__name__).splitlines()[0]

    def reference(self) -> tuple[TokenizerSpec, list[str], list[list[int]]]:
        """What `reference_ids` returned or raised."""
        if self._reference is None:
            with os_errors_refused(self.flag):
                self._reference = self._child.result()
        return self._reference
