"""What the project costs: each module prints a table and writes JSON."""
