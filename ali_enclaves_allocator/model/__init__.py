"""Values and choices: no I/O and no clock."""
