"""Getting a student out: exports that say how they are fed, checked against the student before they are kept."""
