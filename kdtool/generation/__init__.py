"""Black-box distillation: a teacher's text, collected once and kept as data that students learn from."""
