"""What a model is: the catalogue of recipes, sizes, parameters, FLOPs, tokenizer files, families."""
