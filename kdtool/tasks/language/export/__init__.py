"""Getting a language student out: files that take token numbers, with the tokenizer beside them."""
