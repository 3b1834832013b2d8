"""Records: bytes to records and back, in every format that people hold. Knows no model and no gate."""
