"""The data and its tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nemo_workflow.config.checks.context import Run
from nemo_workflow.data import open_files
from nemo_workflow.data.dataset_stats import figures, token_range, vouched_for
from nemo_workflow.data.index_check import SAMPLES, Index, check_index
from nemo_workflow.data.indexed_dataset import Pair
from nemo_workflow.data.splits import PARTS, Part
from nemo_workflow.models.pretrained import Tokenizer
from nemo_workflow.models.tokenizer_files import VOCABULARY, files_of
from nemo_workflow.models.tokenizer_identity import (
    MAKER,
    OtherEnd,
    end_named,
    made_with,
    of_checkpoint,
    other_end,
    same,
)
from nemo_workflow.utils.console import and_more, counted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.folder_kinds import TOKENIZERS, meant, quoted

SHOWN = 3  # names of files in one line


def open_files_allowed(run: Run) -> Iterator[str]:
    """A rank keeps 3 to 15 files open for each pair, and can't even write down its own error where it may open no more."""
    if run.settings.executor != "local" or not run.seq_length:
        return
    if problem := open_files.too_many(open_files.needed(run.parts, run.seq_length)):
        yield (
            f"--{'blend' if run.settings.blend else 'dataset-dir'}: training on {counted(len(run.parts), 'pair')} takes {problem}:"
            " raise that, or make fewer pairs of them: python -m nemo_workflow.dataset join OUT FOLDER"
        )


def enough_data(run: Run) -> Iterator[str]:
    """Megatron builds every part of every source, and never ends on a part without tokens."""
    if not run.parts or not run.seq_length or run.recipe is None:
        return
    batch = run.settings.global_batch_size
    if run.samples(0) < batch:
        lower = "--global-batch-size or --seq-length" if run.samples(0) else "--seq-length"
        yield (
            f"--global-batch-size {run.batch_words}: the training split holds {counted(run.samples(0), 'sample')} of"
            f" {counted(run.seq_length, 'token')},"
            f" less than one step; lower {lower}, or {_more_samples(run)}{_batch_that_fits(run)}{_own_batch(run)}"
        )
    names = names_of(run)
    small = {
        index: [
            (names[source.pair.prefix], parts[index])
            for source, parts in zip(run.sources, run.parts, strict=True)
            if _too_small(parts[index], name, run.seq_length)
        ]
        for index, name in enumerate(PARTS)
    }
    lacking: dict[str, list[str]] = {}  # of parts that are empty alike, as of a single document, one problem is enough
    for index, files in small.items():
        if files:
            without = _without(run, {part for part, found in small.items() if found}) if index else None
            lacking.setdefault(_named(files, len(run.sources), without), []).append(PARTS[index])
    default = "" if run.given("split") else " (the default)"
    for said, parts in lacking.items():
        yield f"--split {run.settings.split}{default}: no {' and no '.join(parts)} sample in {said}"


def _more_samples(run: Run) -> str:
    """What makes more samples: of many pairs with fewer tokens than a sample each, one that holds them all."""
    if len(run.parts) > 1 and sum(parts[0].tokens for parts in run.parts) > 2 * run.seq_length * (run.samples(0) + 1):
        return f"join the {len(run.parts):,} pairs (python -m nemo_workflow.dataset join OUT DIR, or preprocess with --join)"
    return "add data"


def _too_small(part: Part, name: str, length: int) -> bool:
    """Whether a source's part is asked for and lacks what it needs: Megatron never ends on one without tokens."""
    return bool(part.share) and (not part.tokens or (name == "validation" and part.samples(length) < 1))


def names_of(run: Run) -> dict[str, str]:
    """Prefix of a pair -> its name, with its folder's where others of the run are called so too."""
    prefixes = {source.pair.prefix: Path(source.pair.prefix) for source in run.every_source}
    alike = Counter(path.name for path in prefixes.values())
    return {
        prefix: path.name if alike[path.name] == 1 else f"{path.parent.name}/{path.name}"
        for prefix, path in prefixes.items()
    }


def _batch_that_fits(run: Run) -> str:
    """The largest batch of a small text, where lowering it alone would only lead to a refusal of the micro batch."""
    micro = run.settings.micro_batch_size
    if run.layout is None or not isinstance(micro, int) or run.samples(0) >= micro * run.layout.data:
        return ""
    per_rank = run.samples(0) // run.layout.data
    return f" (-gbs {per_rank * run.layout.data} -mbs {per_rank} would do)" if per_rank else ""


def _own_batch(run: Run) -> str:
    """The recipe's own batch for who has given none, where the data has enough for it."""
    own = run.recipe.fields["data.global_batch_size"] if run.recipe else 0
    if "global_batch_size" in run.settings.given or not 0 < own <= run.samples(0) or run.recipe is None:
        return ""
    if (
        run.layout
        and isinstance(run.settings.micro_batch_size, int)
        and own % (run.settings.micro_batch_size * run.layout.data)
    ):
        return ""
    return f": {run.recipe.name}'s own is -gbs {own}"


def _without(run: Run, lacking: set[int]) -> str:
    """The --split that does without the parts of these numbers."""
    shares = [float(share) for share in run.settings.split.split(",")]
    kept = [share if number == 0 or number not in lacking else 0 for number, share in enumerate(shares)]
    return "1,0,0" if not any(kept[1:]) else ",".join(f"{share:g}" for share in kept)


def _named(small: list[tuple[str, Part]], sources: int, without: str | None) -> str:
    """The sources whose part is too small and the remedy, in one line however many they are.

    `without`: the --split that does without the part; None for the training's, which can't be left out.
    """
    first = small[0][1]
    if len(small) == 1:
        remedy = (
            f"give this part more, or do without: --split {without}"
            if without
            else "give it more, or leave this file out"
        )
        return f"{small[0][0]} ({counted(first.sequences, 'document')}, {counted(first.tokens, 'token')}); {remedy}"
    tokens = max(part.tokens for _, part in small)
    more = f" and {len(small) - SHOWN:,} more" if len(small) > SHOWN else ""
    names = ", ".join(name for name, _ in small[:SHOWN]) + more
    remedy = f", give this part more, or do without: --split {without}" if without else ", or leave these files out"
    return (
        f"{len(small):,} of {sources:,} files ({names}; {counted(tokens, 'token')} at most): make one pair of small files"
        f" (python -m nemo_workflow.dataset join){remedy}"
    )


def sound_pairs(run: Run) -> Iterator[str]:
    """What megatron-core's IndexedDataset asserts in the ranks, and what it would read past in silence."""
    for source in run.every_source:
        if vouched_for(source.pair):
            continue
        try:
            check_index(source.pair, Index(source.pair), SAMPLES)
        except Refusal as refusal:
            yield from refusal.problems
        found = token_range(source.pair)
        if found is not None and found[0] < 0:
            yield f"{source.pair.prefix}.bin: holds a negative token id ({found[0]}); preprocess this file again"


def made_with_this_tokenizer(run: Run) -> Iterator[str]:
    """Ids of another tokenizer train nothing of use."""
    others = _refused_for_tokenizer(run)
    earlier = [pair for pair in others if made_before_it_changed(run, pair)]
    if other := [pair for pair in others if pair not in earlier]:
        yield (
            f"--hf-model-id {run.settings.hf_model_id}: {_were(run, other)} preprocessed with another tokenizer.json"
            f" ({maker_of(other[0])}): preprocess with this one, give the other one, or"
            " add --allow-change tokenizer if you know that its ids are the same"
        )
    if earlier:
        yield (
            f"--hf-model-id {run.settings.hf_model_id}: {_were(run, earlier)} preprocessed before this tokenizer's tokenizer.json"
            " changed: preprocess again, or add --allow-change tokenizer if you know that its ids are the same"
        )


def documents_end_as_this_tokenizers(run: Run) -> Iterator[str]:
    """A tokenizer of the same ids with another end of a document: what generates with it stops at its own end alone."""
    if "tokenizer" in run.settings.allow_change or run.tokenizer is None:
        return
    for end, pairs in of_another_end(run).items():
        if end.chosen is False:
            other = "" if made_before_it_changed(run, pairs[0]) else " give the tokenizer that it was made with,"
            yield (
                f"--hf-model-id {run.settings.hf_model_id}: the documents of {named(run, pairs)} end with {end}, the"
                f" tokenizer's own end when it was preprocessed, and this tokenizer's is"
                f" {end_named(run.tokenizer.eos, run.tokenizer.eos_id)}: preprocess again,{other}"
                " or add --allow-change tokenizer if that is meant"
            )


def named(run: Run, pairs: list[Pair]) -> str:
    """The names of some of a run's pairs in one line."""
    names = names_of(run)
    return and_more([names[pair.prefix] for pair in pairs])


def _were(run: Run, pairs: list[Pair]) -> str:
    return f"{named(run, pairs)} {'was' if len(pairs) == 1 else 'were'}"


def checkpoint_of_this_tokenizer(run: Run) -> Iterator[str]:
    """The rows of a checkpoint's embedding belong to the ids of the tokenizer that it was trained with."""
    model, tokenizer, settings = run.nemo_model, run.tokenizer, run.settings
    if model is None or tokenizer is None or "tokenizer" in settings.allow_change or _too_large(run, tokenizer):
        return
    own = of_checkpoint(model.folder)
    if own is None or not files_of(tokenizer.folder, VOCABULARY) or same(own, tokenizer.folder):
        return
    yield (
        f"--hf-model-id {settings.hf_model_id}: the checkpoint of --nemo-model {settings.nemo_model} was trained with another"
        f" tokenizer, so that its weights know nothing of this one's ids: give its own, --hf-model-id {quoted(own)}, with data that is"
        f" preprocessed with it, or add --allow-change tokenizer if you know that old tokens keep their ids"
    )


def _refused_for_tokenizer(run: Run) -> list[Pair]:
    return [] if "tokenizer" in run.settings.allow_change else of_another_tokenizer(run)


def maker_of(pair: Pair) -> str:
    """The tokenizer that preprocessing named beside a pair."""
    made_with = figures(pair)
    return str(made_with.get("tokenizer_path") or made_with.get("tokenizer"))


def made_before_it_changed(run: Run, pair: Pair) -> bool:
    """Whether a pair's maker is the folder that the run's tokenizer is read from: it was another one then."""
    place = figures(pair).get("tokenizer_path")
    return bool(place and run.tokenizer and Path(place).resolve() == run.tokenizer.folder.resolve())


def of_another_end(run: Run) -> dict[OtherEnd, list[Pair]]:
    """The pairs of this tokenizer's ids whose documents don't end with its end, by how they do."""
    found: dict[OtherEnd, list[Pair]] = {}
    if run.tokenizer is None:
        return found
    others = of_another_tokenizer(run)
    for pair in dict.fromkeys(source.pair for source in run.every_source):
        end = other_end(figures(pair), run.tokenizer.eos, run.tokenizer.eos_id)
        if end and pair not in others:
            found.setdefault(end, []).append(pair)
    return found


def of_another_tokenizer(run: Run) -> list[Pair]:
    """The pairs beside which preprocessing left the hashes of another tokenizer."""
    folder = run.tokenizer.folder if run.tokenizer else None
    if folder is None or not files_of(folder, VOCABULARY):
        return []
    said = [(source.pair, figures(source.pair)) for source in run.every_source]
    makers = [(pair, tuple(found.get(name) for name in MAKER), found.get("tokenizer_path")) for pair, found in said]
    ours = {(maker, place): made_with(maker, place, folder) for maker, place in {one[1:] for one in makers}}
    return [pair for pair, maker, place in makers if not ours[maker, place]]


def _too_large(run: Run, tokenizer: Tokenizer) -> bool:
    """Whether it has more entries than an embedding rows whose size doesn't follow the tokenizer."""
    rows = run.sizes.get("vocab_size") or 0
    return bool(rows and (tokenizer.vocab_size or 0) > rows)


def tokenizer_fits(run: Run) -> Iterator[str]:
    """The tokenizer's files, its end-of-document token, and its vocabulary against the data."""
    tokenizer = run.tokenizer
    name = run.settings.hf_model_id
    if tokenizer is None:
        return
    if not files_of(tokenizer.folder):
        yield f"--hf-model-id {name}: no tokenizer files in it; give a folder with tokenizer.json, or a hub id{meant(tokenizer.folder, TOKENIZERS, '--hf-model-id')}"
        return
    if tokenizer.eos is None and tokenizer.plain and run.recipe and run.recipe.family != "bert":
        yield (
            f"--hf-model-id {name}: the tokenizer has no end-of-document token; set eos_token in its"
            " tokenizer_config.json"
        )
    rows = run.sizes.get("vocab_size") or 0  # of an embedding whose size doesn't follow the tokenizer
    if not tokenizer.vocab_size:
        return
    model = f"--nemo-model {run.settings.nemo_model}" if run.nemo_model else f"--model-name {run.settings.model_name}"
    if _too_large(run, tokenizer):
        yield (
            f"--hf-model-id {name}: the tokenizer has {counted(tokenizer.vocab_size, 'entry')}, but the embedding of {model} has"
            f" {counted(rows, 'row')}; give the model's own tokenizer, or give the model rows for this one's tokens:"
            " convert_from_hf_to_nemo2.py --extend-vocabulary"
        )
    others = _refused_for_tokenizer(run)  # which is said of them in one line
    for source in run.every_source:
        found = token_range(source.pair) if source.pair not in others else None
        largest = None if found is None else found[1]
        if largest is not None and rows and run.recipe and largest >= rows:
            yield (
                f"{source.pair.prefix}.bin: holds token id {largest}, but the embedding of {model} has"
                f" {counted(rows, 'row')}; preprocess it with the model's own tokenizer, or train another model"
            )
        elif largest is not None and largest >= tokenizer.vocab_size:
            yield (
                f"{source.pair.prefix}.bin: holds token id {largest}, but the tokenizer of --hf-model-id {name} has"
                f" {counted(tokenizer.vocab_size, 'entry')}; preprocess it with this tokenizer or give the one it was made with"
            )


def validation_sets(run: Run) -> Iterator[str]:
    """A set of its own is read in the loop of NeMo's validation, with GPT's samples."""
    if not run.validation_sets:
        return
    flag = "--validation-dir"
    if run.schedule and not run.schedule.limit_val_batches:
        yield f"{flag}: --split {run.settings.split} leaves nothing for validation, so its loss would never be computed; give it a second number above 0"
    if run.recipe and run.recipe.family in ("t5", "bert"):
        yield f"{flag}: {run.recipe.name} is not a decoder, and its samples differ; leave it out"
    trained = {source.pair.prefix for source in run.sources}
    for one in run.validation_sets:
        if run.seq_length and not one.samples(run.seq_length):
            yield f"{flag} {one.name}: no sample of {counted(run.seq_length, 'token')} in it; add text, or lower --seq-length"
        if both := [source.pair.prefix for source in one.sources if source.pair.prefix in trained]:
            yield f"{flag} {one.name}: {both[0]} is trained on too; name text that no step sees"
