"""The generating proposer: the model names titles of the catalog (``--proposer generate``)."""
