"""Which files of a folder a tokenizer is read from.

A folder from elsewhere is taken for data: its code is never copied or run, and a link, a pipe or a file of a size that
no tokenizer has is refused before anything reads it.
"""

from __future__ import annotations

import stat
from pathlib import Path

from nemo_workflow.utils.console import human_bytes
from nemo_workflow.utils.errors import Refusal

# of all tokenizers that transformers has; no weights, no pickles, no code
ENDINGS = {".json", ".model", ".txt", ".tiktoken", ".jinja", ".spm", ".vocab", ".bpe", ".codes"}
LARGEST = 256 << 20  # bytes of a file; the largest tokenizer.json we know of has 35 MB


def readable(path: Path) -> bool:
    """Whether a file of a model's folder is there; raises Refusal for one that no honest folder holds."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise Refusal(f"{path}: a link that leads nowhere; copy the file itself into the folder") from None
        return False
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {error.strerror}") from None
    if path.is_symlink() and not _inside(path):
        raise Refusal(f"{path}: a link that leads out of the folder; copy the file itself into the folder (cp -L)")
    if not stat.S_ISREG(status.st_mode):
        raise Refusal(f"{path}: is no plain file; put the tokenizer's own file there, or remove it")
    if status.st_size > LARGEST:
        raise Refusal(
            f"{path}: has {human_bytes(status.st_size)}; no file of a tokenizer has more than {human_bytes(LARGEST)}"
        )
    return True


def _inside(link: Path) -> bool:
    """Whether a link stays in its folder, or leads to the blobs of the Hub's cache, where a snapshot's files lie."""
    folder, target = link.parent.resolve(), link.resolve()
    if target.is_relative_to(folder):
        return True
    return folder.parent.name == "snapshots" and target.parent == folder.parents[1] / "blobs"


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that a tokenizer may be read from; raises Refusal for one that no honest folder holds."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in ENDINGS and not path.name.endswith(".index.json") and not path.name.startswith(".")
    ]
    return [path for path in found if not (path.is_dir() and not path.is_symlink()) and readable(path)]
