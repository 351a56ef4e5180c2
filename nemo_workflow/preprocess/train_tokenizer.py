"""`python -m nemo_workflow.tokenizer`: a byte-level BPE tokenizer of one's own text, as a Hugging Face folder."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from nemo_workflow import leave
from nemo_workflow.models import tokenizer_files
from nemo_workflow.preprocess.documents import BadLine, decoded, parse_lines
from nemo_workflow.preprocess.input_files import find_sources
from nemo_workflow.preprocess.sources import NOT_TEXT, Source
from nemo_workflow.preprocess.streams import BLOCK, damage_refused, open_text
from nemo_workflow.preprocess.tables import open_table
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.console import Meter, and_more, counted, human_time
from nemo_workflow.utils.errors import Refusal, os_errors_refused
from nemo_workflow.utils.files import IN_FRONT, nothing_half_made, write_json, written_aside
from nemo_workflow.utils.folder_kinds import PLAN, WEIGHTS
from nemo_workflow.utils.meant import called
from nemo_workflow.utils.processes import interruptible

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 4096
# what a tokenizer, a model, a run or data is known by: another tokenizer beside it would be taken for its own
OTHERS = (*tokenizer_files.VOCABULARY, *WEIGHTS, "config.json", PLAN, "context", "preprocessed", "*.idx")
SMALLEST = 257  # the 256 bytes and the end of a text
# what tokenizers, sentencepiece, litgpt and transformers call our flags
MEANINGS = called(
    {
        "--vocabulary": "vocab-size vocabulary-size vocab num-tokens n-vocab size num-merges",
        "--input": "files file input-file input-dir input-files data data-dir dataset dataset-dir corpus text train-file",
        "--output-dir": "output out output-path out-dir save save-dir model-prefix model-name name",
        "--json-keys": "text-key text-field text-column key field",
        "--extend": "tokenizer hf-tokenizer base-tokenizer from-tokenizer",
        "--max-mb": "max-bytes max-size input-sentence-size limit max-samples",
    },
    {
        "model": "--output-dir DIR is the folder to write; --extend DIR adds to the tokenizer of a model's folder",
        "model-type type byte-level lowercase normalizer unk-token": "it learns a byte-level BPE: leave it out",
        "special-tokens user-defined-symbols eos eos-token bos bos-token": "<|endoftext|> is its one special token, in its --vocabulary"
        " already: leave it out",
        "character-coverage limit-alphabet min-frequency byte-fallback": "it covers every byte, and takes the pairs that are most"
        " frequent until --vocabulary is reached: leave it out",
        "overwrite force": "a folder with a tokenizer is kept: give another --output-dir, or remove it",
        "add-tokens new-tokens": "--extend DIR --vocabulary N adds N tokens to the tokenizer of a model's folder",
        "workers num-workers num-proc threads num-threads": "it uses all cores: leave it out",
        "seed shuffle": "the same --input gives the same tokenizer: leave it out",
    },
)
PIECE = 1 << 16  # characters that the trainer gets at once
SOON, LATE = 1.0, 20.0  # seconds after which it is shown how far it is, on a terminal and in a log
LARGE = 20_000_000  # characters whose tokens take half a minute to learn; of a tenth it is said on a terminal alone


def _parser() -> Parser:
    parser = Parser(
        prog="python -m nemo_workflow.tokenizer",
        description="Train a byte-level BPE tokenizer on your own text: for a small model, or a language that published"
        " tokenizers cut into single bytes. It takes any text, and needs no network. --extend adds to a model's own instead.",
        meanings=MEANINGS,
    )
    parser.any_text.add("json_key")
    parser.for_words, parser.for_new = "--input", "--output-dir"
    parser.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        required=True,
        help="text as preprocess_data.sh takes it: files or folders",
    )
    parser.add_argument("--output-dir", metavar="DIR", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--vocabulary",
        metavar="N",
        type=int,
        help=f"size of the vocabulary; with --extend, the tokens added (default {VOCABULARY})",
    )
    parser.add_argument(
        "--extend",
        metavar="DIR",
        type=Path,
        help="Hugging Face folder of a model: write its tokenizer with more tokens, learnt from the text, for"
        " convert_from_hf_to_nemo2.py --extend-vocabulary; old tokens keep their ids",
    )
    parser.add_argument(
        "--json-keys",
        "--json-key",
        dest="json_key",
        metavar="KEY",
        default="text",
        help="key of the text in JSON lines and tables (default %(default)s)",
    )
    parser.add_argument(
        "--max-mb",
        metavar="MB",
        type=int,
        default=200,
        help="train on this many MB of the text, from its beginning (default %(default)s)",
    )
    return parser


def main() -> int:
    """Train and write the folder; a folder with a tokenizer in it is refused."""
    arguments = _parser().parse_args()
    asked = arguments.vocabulary is not None
    arguments.vocabulary = arguments.vocabulary if asked else VOCABULARY
    folder: Path = arguments.output_dir.expanduser()
    _check_numbers(arguments)
    sources, notes = find_sources(arguments.input, [], [], folder)
    for note in notes:
        print(note, file=sys.stderr)
    _check_folder(folder)
    try:
        with os_errors_refused(f"--output-dir {folder}"), nothing_half_made(folder):
            return _write(arguments, folder, sources, asked)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # a terminal that is gone
            print("stopped by Ctrl-C: nothing is written; the same command begins again", file=sys.stderr, flush=True)
        leave()  # whatever the library's threads are still learning
        raise


def _check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.extend and arguments.vocabulary < 1:
        raise Refusal(f"--vocabulary {arguments.vocabulary}: add at least one token")
    if not arguments.extend and arguments.vocabulary < SMALLEST:
        raise Refusal(
            f"--vocabulary {arguments.vocabulary}: at least {SMALLEST}, one entry per byte and one for the end of a text"
        )
    if arguments.max_mb < 1:
        raise Refusal(f"--max-mb {arguments.max_mb}: at least 1")


def _check_folder(folder: Path) -> None:
    """Refuse a folder that can't become a tokenizer's, or would lose or mislead by it."""
    with os_errors_refused(f"--output-dir {folder}"):
        if folder.exists() and not folder.is_dir():
            raise Refusal(f"--output-dir {folder}: is a file, not a folder; choose a folder")
        if (folder / "tokenizer.json").exists():
            raise Refusal(f"--output-dir {folder}: exists already; choose another folder, or remove it first")
        if folder.resolve() == Path("/"):
            raise Refusal(f"--output-dir {folder}: name a folder below it; {IN_FRONT}")
        if there := sorted(path.name for pattern in OTHERS for path in folder.glob(pattern)):
            raise Refusal(f"--output-dir {folder}: holds {and_more(there)}: choose another folder, or a new one in it")


def _write(arguments: argparse.Namespace, folder: Path, sources: Iterable[Source], asked: bool) -> int:
    """Learn, write, and say what was learnt; `asked`: the size was asked for."""
    with contextlib.closing(Meter()) as meter:
        documents = watched(first(texts(sources, arguments.json_key), arguments.max_mb << 20), meter)
        return _learn(arguments, folder, documents, asked, meter)


def _learn(arguments: argparse.Namespace, folder: Path, documents: Iterable[str], asked: bool, meter: Meter) -> int:
    began = time.monotonic()
    if arguments.extend:
        from nemo_workflow.preprocess.extend_tokenizer import extend

        entries, before, after = extend(arguments.extend.expanduser(), documents, folder, arguments.vocabulary)
        meter.close()
        print(f"{folder}: {counted(entries, 'token')} added, {human_time(time.monotonic() - began)}")
        print(f"the text takes {after:.2f} tokens per character, {before:.2f} with the tokenizer of {arguments.extend}")
        return 0
    entries = train(documents, folder, arguments.vocabulary)
    meter.close()
    print(f"{folder}: {entries:,} entries, {human_time(time.monotonic() - began)}")
    if entries < arguments.vocabulary:
        whose = "asked for (--vocabulary)" if asked else "that a text with more of them gives by default"
        print(
            f"note: the text has few different words: its vocabulary has {entries:,} entries, fewer than the"
            f" {arguments.vocabulary:,} {whose}"
        )
    return 0


def texts(sources: Iterable[Source], key: str) -> Iterator[str]:
    """Every document of the inputs. Bad lines, which preprocessing may leave out, are passed over with a note.

    Raises Refusal for a file that is no text in UTF-8.
    """
    for source in sources:
        bad, first_bad, line = 0, "", 0
        if source.is_table:
            with open_table(source.path, (key,)) as table:
                for columns, _, _ in table.batches(BLOCK):
                    yield from (text for text in columns[0] if isinstance(text, str))
            continue
        with damage_refused(source.path), open_text(source.path) as stream:
            if source.is_text:
                try:
                    yield from decoded(iter(lambda: stream.read(BLOCK), b""))
                except BadLine as bad_text:
                    remedy = NOT_TEXT[bad_text.reason]
                    raise Refusal(f"--input {source.path}: {bad_text.reason}: {bad_text.detail}. {remedy}") from None
                continue
            while lines := stream.readlines(BLOCK):
                columns, rejects, count = parse_lines(b"".join(lines), (key,))
                if rejects and not bad:
                    first_bad = f"{source.path}:{line + rejects[0].line}: {rejects[0].reason}: {rejects[0].detail}"
                bad, line = bad + len(rejects), line + count
                yield from columns[0]
        if bad:
            print(f"note: {counted(bad, 'bad line')} passed over, the first {first_bad}", file=sys.stderr)


def first(documents: Iterable[str], limit: int) -> Iterator[str]:
    """The documents up to `limit` characters in all, long ones in pieces: the trainer holds one at a time."""
    for text in documents:
        for start in range(0, len(text), PIECE):
            if limit <= 0:
                return
            yield text[start : start + PIECE]
            limit -= PIECE if start + PIECE <= len(text) else len(text) - start


def watched(documents: Iterable[str], meter: Meter) -> Iterator[str]:
    """The same documents; how many millions of characters were read is shown where that takes long, and that the rest follows."""
    began, read = time.monotonic(), 0
    for text in documents:
        read += len(text)
        if time.monotonic() - began > (SOON if meter.live else LATE):
            meter.show(f"read {read / 1e6:,.0f} million characters")
        yield text
    if read > (LARGE / 10 if meter.live else LARGE):
        meter.show(f"read {read / 1e6:,.0f} million characters; learning its tokens …", always=True)


def train(documents: Iterable[str], folder: Path, vocabulary: int) -> int:
    """Write the tokenizer of these texts to `folder`, which is there; returns its entries. Raises Refusal when there is no text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    there = False

    def seen() -> Iterator[str]:
        nonlocal there
        for text in documents:
            there = there or bool(text.strip())
            yield text

    interruptible(lambda: tokenizer.train_from_iterator(seen(), trainer))
    if not there:
        raise Refusal("--input: no text in it to learn from; --json-keys names the key of the text in JSON lines")
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            # without token_type_ids, which no decoder takes: generate(**tokenizer(text)) would fail on them
            "model_input_names": ["input_ids", "attention_mask"],
        },
    )
    with written_aside(folder / "tokenizer.json") as stream:  # last: its presence says that the folder is whole
        stream.write(tokenizer.to_str())
    return int(tokenizer.get_vocab_size())
