"""How many files a rank keeps open for its data, against what this machine allows a process: 1,024 for many a shell.

Megatron keeps each pair open thrice: its .idx mapped, its .bin opened and mapped. Each part of a pair has three index arrays for
an epoch, a blend draws from two epochs of the training part at a time, and arrays of more than SMALL bytes are mapped.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Sequence

from nemo_workflow.data.splits import Part

# bytes; mapped too, the arrays of thousands of small pairs would meet the kernel's limit of maps (65,530)
SMALL = 16 << 10
OF_A_PAIR = 3
OF_A_PART = 3
EPOCHS = (2, 1, 1)  # of training, validation and test that may be in use at a time
# of libraries, logs, sockets to other ranks: what a machine must allow besides; on a CPU there are some 120
OTHERS = 512
SPARE = 1024  # the same where a rank asks for as many as it may have
DOCUMENT, SAMPLE = 4, 8  # bytes an entry of the documents' array and of the largest of the samples'


def most_of(pairs: int) -> int:
    """Files that a rank has open at most for so many pairs, all of them large."""
    return (OF_A_PAIR + OF_A_PART * sum(EPOCHS)) * pairs + SPARE


def least_of(pairs: int) -> int:
    """Files that it has open at least."""
    return OF_A_PAIR * pairs + OTHERS


def needed(parts: Iterable[Sequence[Part]], seq_length: int) -> int:
    """Files that it has open at most for pairs with these parts."""
    return OTHERS + sum(
        OF_A_PAIR
        + sum(OF_A_PART * epochs for part, epochs in zip(of_pair, EPOCHS, strict=True) if _large(part, seq_length))
        for of_pair in parts
    )


def _large(part: Part, seq_length: int) -> bool:
    """Whether any index array of a part is mapped; in doubt all of them are counted."""
    return max(DOCUMENT * part.sequences, SAMPLE * (part.samples(seq_length) + 1)) > SMALL


def too_many(wanted: int) -> str:
    """What is said where this machine allows no process so many open files; empty where it does."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or wanted <= most:
        return ""
    return f"up to {wanted:,} open files, and this machine allows a process {most:,} (ulimit -Hn)"


def allow(wanted: int) -> None:
    """Raise this process's own limit to so many open files, or as far as the machine lets it."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
