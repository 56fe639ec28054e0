"""What tasks share of getting a student out: formats, the folder, and the comparison before a file is kept."""
