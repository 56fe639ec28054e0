"""kdtool's built-in distillation methods: one paper, one file, registered like anybody else's."""
