"""The model: item titles in, noise log-odds out. Knows no records and no gate."""
