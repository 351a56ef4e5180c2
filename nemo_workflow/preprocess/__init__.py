"""JSON lines, their compressed forms and Parquet -> Megatron .bin/.idx pairs.

command    the flags, and the order of the work
inputs     which files, under which names, cut into tasks for the workers
documents  JSON lines -> texts, or the reason why a line is bad
giant      one line too long to parse in memory
tokenizer  a folder or Hub id -> what transformers would make of it, without importing transformers where possible
engines    texts -> token ids: fastokens, tokenizers, or the slow Python tokenizer
longtext   cuts a long text where its tokens do not change
pool       worker processes that never hang their parent
worker     a task -> tokens
writer     .bin and .idx, aside, then renamed all together
summary    figures of the output
"""
