"""JSON lines, their compressed forms and Parquet -> Megatron .bin/.idx pairs.

command    the flags, and the order of the work
inputs     which files, under which names, cut into tasks for the workers
documents  JSON lines -> texts, or the reason why a line is bad
giant      one line too long to parse in memory
tokenizer  a folder or Hub id -> what transformers would make of it, without importing transformers where possible
loading    the tokenizer and the Hugging Face reference, loaded at once
engines    texts -> token ids: fastokens, tokenizers, or the slow Python tokenizer
checks     whether an engine gives the reference's ids
longtext   cuts a long text where its tokens do not change
pool       worker processes that never hang their parent
tasks      what the parent and its workers send each other
worker     a task -> tokens
writer     .bin and .idx
folder     files written aside, then renamed all together
summary    figures of the output
"""
