"""Files that would run something if they were trusted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def write_code(folder: Path, trap: Path, tokenizer_class: str) -> None:
    """Code that leaves `trap` when it is run, named where transformers looks for it; and a pickle that does the same."""
    code = f"open({str(trap)!r}, 'w').close()\nclass Evil:\n    pass\n"
    for name in ("evil.py", "tokenization_evil.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {
        "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": tokenizer_class,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    (folder / "vocab.pkl").write_bytes(pickle.dumps(Call(exec, code)))
