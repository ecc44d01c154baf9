"""The lowest floor: errors, names, trees, keys, configs and files. Knows no method."""
