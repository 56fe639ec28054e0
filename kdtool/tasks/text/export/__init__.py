"""Getting a text student out: files that take token numbers, with the tokenizer beside them."""
