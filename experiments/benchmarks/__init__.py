"""Speed of methods beside what a user would run instead: one module per method."""
