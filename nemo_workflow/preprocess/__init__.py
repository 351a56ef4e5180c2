"""JSON lines, text, their compressed forms, Parquet and Arrow -> Megatron .bin/.idx pairs.

command          the flags, and the order of the work
input_files      which files: folders with all below, globs, lists
sources          one input file: its kind, and what is wrong with it
groups           which inputs become one pair
earlier          what finished pairs hold of the inputs; by what an input is known again
work             what there is to do
journal          how far an unfinished run has come
inputs           inputs cut into tasks for the workers
streams          compressed files
tables           Parquet and Arrow
documents        JSON lines -> texts, or the reason why a line is bad
oversized_line   one line too long to parse in memory
tokenizer        a folder or Hub id -> what transformers would make of it, without importing transformers where possible
startup          the tokenizer and the Hugging Face reference, loaded at once
engines          texts -> token ids: fastokens, tokenizers, or the slow Python tokenizer
engine_parity    whether an engine gives the reference's ids
split_long_text  cuts a long text where its tokens do not change
pool             worker processes that never hang their parent
messages         what the parent and its workers send each other
worker           a task -> tokens
encoding         tasks to the workers, results into the outputs
outputs          what the inputs of a group become
pair_writer      .bin and .idx
output_dir       files written aside, then renamed all together
stats            figures of the output
inspect_dataset  `python -m nemo_workflow.dataset`: what a finished pair holds
"""
